//! What the file system in memory promises.

use super::*;

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn write(fs: &MemoryFs, name: &str, content: &[u8], sync: bool) -> Box<dyn File> {
    let mut file = fs.create(path(name)).unwrap();
    file.append(content).unwrap();
    if sync {
        file.sync().unwrap();
    }
    file
}

#[test]
fn only_what_was_synced_is_certain() {
    let (mut lost, mut kept) = (false, false);
    for seed in 0..50 {
        let fs = MemoryFs::new();
        fs.create_dir(path("/d")).unwrap();
        fs.sync_dir(path("/")).unwrap();
        let mut file = write(&fs, "/d/a", b"safe", true);
        fs.sync_dir(path("/d")).unwrap();
        file.append(b" and not").unwrap();
        write(&fs, "/d/b", b"no name", true);
        let old = fs.clone();
        let fs = fs.power_loss(seed);
        assert!(
            old.read(path("/d/a")).is_err() && file.append(b"x").is_err(),
            "that process is gone"
        );
        let a = fs.read(path("/d/a")).unwrap();
        assert!(a.starts_with(b"safe"));
        match fs.read(path("/d/b")) {
            Ok(bytes) => {
                assert_eq!(bytes, b"no name");
                kept = true;
            }
            Err(_) => lost = true,
        }
    }
    assert!(lost && kept, "a name that was not synced may go either way");
}

#[test]
fn what_goes_over_zeros_is_as_uncertain_as_what_is_appended() {
    let mut survivors = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let fs = MemoryFs::new();
        let mut file = write(&fs, "/a", b"safe", true);
        fs.sync_dir(path("/")).unwrap();
        file.fill_ahead(1000).unwrap();
        file.sync().unwrap();
        assert_eq!(fs.used(), 1004);
        file.append(&[7; 900]).unwrap();
        assert_eq!(fs.used(), 1004, "the space was there");
        let lost = fs.power_loss(seed).read(path("/a")).unwrap();
        assert!(lost.len() == 1004 && lost.starts_with(b"safe"));
        assert!(lost[4..904].iter().all(|byte| [0, 7].contains(byte)) && lost[904..] == [0; 100]);
        survivors.insert(lost.iter().filter(|byte| **byte == 7).count());
    }
    assert!(
        survivors.len() > 2,
        "all, nothing, or some sectors of it: {survivors:?}"
    );
    let fs = MemoryFs::new();
    fs.set_capacity(Some(10));
    let mut file = write(&fs, "/a", b"12", true);
    assert_eq!(file.fill_ahead(20).unwrap_err().kind(), ErrorKind::StorageFull);
    file.append(b"345678").unwrap();
    file.truncate(8).unwrap();
    assert_eq!((fs.read(path("/a")).unwrap(), fs.used()), (b"12345678".to_vec(), 8));
}

#[test]
fn a_failed_sync_is_never_made_good() {
    let fs = MemoryFs::new();
    let mut file = write(&fs, "/a", b"first", true);
    fs.sync_dir(path("/")).unwrap();
    fs.fail_syncs(1);
    file.append(b"second").unwrap();
    assert!(file.sync().is_err());
    file.append(b"third").unwrap();
    file.sync().unwrap();
    assert_eq!(
        fs.read(path("/a")).unwrap(),
        b"firstsecondthird",
        "the page cache looks fine"
    );
    let fs = fs.power_loss(1);
    assert_eq!(fs.read(path("/a")).unwrap(), b"first\0\0\0\0\0\0third");
}

#[test]
fn renames_are_one_step_and_folders_move_with_their_content() {
    for seed in 0..20 {
        let fs = MemoryFs::new();
        fs.create_dir(path("/tmp/chunks")).unwrap();
        for dir in ["/", "/tmp"] {
            fs.sync_dir(path(dir)).unwrap();
        }
        write(&fs, "/tmp/chunks/1", b"x", true);
        fs.sync_dir(path("/tmp/chunks")).unwrap();
        fs.rename(path("/tmp"), path("/block")).unwrap();
        assert_eq!(fs.read(path("/block/chunks/1")).unwrap(), b"x");
        let fs = fs.power_loss(seed);
        let both = [fs.read(path("/tmp/chunks/1")), fs.read(path("/block/chunks/1"))];
        assert_eq!(both.iter().filter(|read| read.is_ok()).count(), 1);
    }
}

#[test]
fn space_runs_out_and_comes_back() {
    let fs = MemoryFs::new();
    fs.set_capacity(Some(10));
    let mut file = write(&fs, "/a", b"12345678", true);
    assert_eq!(file.append(b"9abc").unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(fs.read(path("/a")).unwrap(), b"123456789a", "half of it was written");
    file.truncate(8).unwrap();
    assert_eq!((fs.used(), fs.free_space(path("/")).unwrap()), (8, 2));
    fs.remove_file(path("/a")).unwrap();
    write(&fs, "/b", b"0123456789", true);
    fs.tamper(path("/b"), |bytes| bytes.truncate(3)).unwrap();
    assert_eq!(fs.used(), 3);
}

#[test]
fn the_power_goes_at_a_chosen_step() {
    let fs = MemoryFs::new();
    fs.stop_at(fs.steps() + 3);
    let mut file = fs.create(path("/a")).unwrap();
    file.append(b"x").unwrap();
    assert!(file.append(b"y").is_err() && file.sync().is_err());
    assert!(fs.power_loss(0).create(path("/c")).is_ok());
}

#[test]
fn locks_go_with_their_process() {
    let fs = MemoryFs::new();
    let lock = fs.lock(path("/lock")).unwrap();
    assert_eq!(fs.lock(path("/lock")).err().unwrap().kind(), ErrorKind::WouldBlock);
    let after = fs.kill();
    let held = after.lock(path("/lock")).unwrap();
    drop(lock);
    assert!(
        after.lock(path("/lock")).is_err(),
        "the old process frees nothing of the new one"
    );
    drop(held);
    after.lock(path("/lock")).unwrap();
}

#[test]
fn everything_can_be_synced_in_one_go() {
    for seed in 0..20 {
        let fs = MemoryFs::new();
        fs.create_dir(path("/d/e")).unwrap();
        write(&fs, "/d/e/a", b"content", false);
        fs.fail_syncs(1);
        fs.sync_all(path("/d")).unwrap_err();
        fs.sync_all(path("/d")).unwrap();
        write(&fs, "/d/b", b"later", false);
        let fs = fs.power_loss(seed);
        assert_eq!(fs.read(path("/d/e/a")).unwrap(), b"content");
    }
}
