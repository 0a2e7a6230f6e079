//! The encryption context of SSE-KMS: pairs that the key service binds to each object and writes into its log.
//!
//! `object_store` knows no such header, and Amazon wants it signed. So requests that ask for encryption by a key get it here, between
//! `object_store` and the network, and are signed anew.

use super::client::Connector;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::{
    ClientOptions, HeaderValue,
    aws::{AwsAuthorizer, AwsCredentialProvider},
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService},
};
use std::collections::BTreeMap;

const ENCRYPTION: &str = "x-amz-server-side-encryption";
const CONTEXT: &str = "x-amz-server-side-encryption-context";
const DIGEST: &str = "x-amz-content-sha256";

/// Makes clients that add the context.
#[derive(Debug)]
pub(super) struct WithContext {
    pub(super) inner: Connector,
    pub(super) context: HeaderValue,
    pub(super) region: String,
    pub(super) credentials: AwsCredentialProvider,
}

/// The header's value of these pairs.
pub(super) fn context(pairs: &BTreeMap<String, String>) -> anyhow::Result<HeaderValue> {
    Ok(HeaderValue::from_str(&STANDARD.encode(serde_json::to_vec(pairs)?))?)
}

impl HttpConnector for WithContext {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Contextual {
            client: self.inner.connect(options)?,
            context: self.context.clone(),
            region: self.region.clone(),
            credentials: self.credentials.clone(),
        }))
    }
}

#[derive(Debug)]
struct Contextual {
    client: HttpClient,
    context: HeaderValue,
    region: String,
    credentials: AwsCredentialProvider,
}

impl Contextual {
    async fn add_context(&self, request: &mut HttpRequest) -> object_store::Result<()> {
        request.headers_mut().insert(CONTEXT, self.context.clone());
        if request.headers_mut().remove("authorization").is_none() {
            // It was not signed before either.
            return Ok(());
        }
        let credential = self.credentials.get_credential().await?;
        let digest = request.headers().get(DIGEST).and_then(digest);
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_sign_payload(digest.is_some())
            .try_authorize(request, digest.as_ref().map(|digest| &digest[..]))
    }
}

#[async_trait::async_trait]
impl HttpService for Contextual {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let kind = request.headers().get(ENCRYPTION);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"aws:kms")) {
            let added = self.add_context(&mut request).await;
            added.map_err(|error| HttpError::new(HttpErrorKind::Request, error))?;
        }
        self.client.execute(request).await
    }
}

/// The bytes of a digest in hexadecimal; `None` where the payload is not signed.
fn digest(value: &HeaderValue) -> Option<[u8; 32]> {
    let text = value.to_str().ok().filter(|text| text.len() == 64 && text.is_ascii())?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
