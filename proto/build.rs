//! Compiles the interface descriptions, which gRPC reflection serves. The code that speaks them is written by hand.
#![expect(
    clippy::disallowed_methods,
    reason = "a build script has no environment but the real one"
)]

use protox::prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=interface");
    let files = protox::compile(["hints.proto", "info.proto", "store.proto"], ["interface"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?).join("interface.bin");
    fs::write(out, files.encode_to_vec())?;
    Ok(())
}
