//! An S3 server in memory that does what a script tells it to do wrong.
//!
//! It speaks as much of S3 as a bucket needs: objects, ranges, listings in pages, bulk deletes, uploads in parts. Signatures are
//! not looked at.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, Response, StatusCode, header},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Keys in a page of a listing.
const PAGE_KEYS: usize = 1000;

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// It is answered with this status and not done.
    Refuse(u16),
    /// The connection breaks before it is done.
    Reset,
    /// It is done, and the connection breaks before the answer.
    LoseAnswer,
    /// It is answered after so many milliseconds.
    Stall(u64),
    /// Half of the body comes, then the connection breaks.
    Truncate,
    /// It is done and answered with the tag of something else.
    WrongTag,
    /// A listing leaves out everything.
    HideListing,
}

/// A request as scripts see it.
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) key: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    /// Its number from 0.
    pub(crate) number: usize,
}

type Script = Box<dyn Fn(&Seen) -> Fault + Send>;

pub(crate) struct S3 {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    objects: Mutex<BTreeMap<String, Bytes>>,
    uploads: Mutex<HashMap<String, BTreeMap<u32, Bytes>>>,
    requests: AtomicUsize,
    /// Bytes of objects and parts of objects that were handed out.
    bytes: AtomicUsize,
    in_flight: AtomicUsize,
    /// How often a request came while none was in flight, repetitions of one before not counted.
    rounds: AtomicUsize,
    /// Requests seen, by path and range.
    asked: Mutex<HashSet<(String, String)>>,
    script: Mutex<Script>,
}

impl S3 {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::start_on(listener, address)
    }

    /// Serves what comes in on `listener`, which is known as `address`.
    #[expect(clippy::disallowed_methods, reason = "a test's server")]
    pub(crate) fn start_on<L>(listener: L, address: SocketAddr) -> Self
    where
        L: axum::serve::Listener,
        L::Addr: std::fmt::Debug,
    {
        let shared = Arc::new(Shared {
            objects: Mutex::default(),
            uploads: Mutex::default(),
            requests: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            rounds: AtomicUsize::new(0),
            asked: Mutex::default(),
            script: Mutex::new(Box::new(|_| Fault::None)),
        });
        let router = Router::new().fallback(serve).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, shared }
    }

    /// The document that opens it.
    pub(crate) fn document(&self) -> String {
        self.document_with("insecure: true, access_key: k, secret_key: s, region: r, max_retries: 3")
    }

    /// The same with other fields.
    pub(crate) fn document_with(&self, fields: &str) -> String {
        let endpoint = self.address;
        format!("type: S3\nconfig: {{bucket: b, endpoint: '{endpoint}', {fields}}}\n")
    }

    pub(crate) fn script(&self, script: impl Fn(&Seen) -> Fault + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
        for counter in [&self.shared.requests, &self.shared.bytes, &self.shared.rounds] {
            counter.store(0, Ordering::SeqCst);
        }
        self.shared.asked.lock().unwrap().clear();
    }

    /// Bytes of objects handed out since the script began.
    pub(crate) fn bytes(&self) -> usize {
        self.shared.bytes.load(Ordering::SeqCst)
    }

    /// Rounds of requests since the script began: those that overlap are one. Only meaningful when each takes some time.
    pub(crate) fn rounds(&self) -> usize {
        self.shared.rounds.load(Ordering::SeqCst)
    }

    /// Puts an object there.
    pub(crate) fn put(&self, key: &str, content: Bytes) {
        self.shared.objects.lock().unwrap().insert(key.to_owned(), content);
    }

    /// Requests since the script began.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn objects(&self) -> BTreeMap<String, Bytes> {
        self.shared.objects.lock().unwrap().clone()
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let range = request.headers().get(header::RANGE);
    let range = range.and_then(|range| range.to_str().ok()).unwrap_or("").to_owned();
    // A hedge asks for the same once more; on a busy machine the first may be answered by then.
    let is_new = shared.asked.lock().unwrap().insert((request.uri().to_string(), range));
    if shared.in_flight.fetch_add(1, Ordering::SeqCst) == 0 && is_new {
        shared.rounds.fetch_add(1, Ordering::SeqCst);
    }
    let _ending = Ending(shared.clone());
    answer_as_scripted(&shared, request).await
}

/// A request in flight, until it is answered or given up.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer_as_scripted(shared: &Shared, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches('/');
    let key = path.split_once('/').map_or("", |(_, key)| key).to_owned();
    let seen = Seen {
        method: parts.method.clone(),
        key,
        query: parts.uri.query().unwrap_or("").to_owned(),
        headers: parts.headers.clone(),
        number: shared.requests.fetch_add(1, Ordering::SeqCst),
    };
    let fault = (shared.script.lock().unwrap())(&seen);
    let Ok(body) = axum::body::to_bytes(body, 64 << 20).await else {
        return status(400);
    };
    match fault {
        Fault::Refuse(code) => return refused(code),
        Fault::Reset => return broken(Bytes::new(), 1),
        Fault::Stall(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        _ => {}
    }
    let range = parts.headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let mut answer = shared.answer(&seen, range, body, fault == Fault::HideListing);
    match fault {
        Fault::LoseAnswer => broken(Bytes::new(), 1),
        Fault::Truncate => {
            let whole = axum::body::to_bytes(answer.into_body(), 64 << 20)
                .await
                .unwrap_or_default();
            broken(whole.slice(..whole.len() / 2), whole.len())
        }
        Fault::WrongTag => {
            answer.headers_mut().insert(header::ETAG, "\"0123\"".parse().unwrap());
            answer
        }
        _ => answer,
    }
}

fn status(code: u16) -> Response<Body> {
    Response::builder().status(code).body(Body::empty()).unwrap()
}

fn refused(code: u16) -> Response<Body> {
    let text = if code == 503 { "SlowDown" } else { "InternalError" };
    let body = format!("<Error><Code>{text}</Code><Message>as the script says</Message></Error>");
    Response::builder().status(code).body(body.into()).unwrap()
}

/// An answer that promises `length` bytes and ends after those in `begin`.
fn broken(begin: Bytes, length: usize) -> Response<Body> {
    let pieces: [Result<Bytes, std::io::Error>; 2] = [Ok(begin), Err(std::io::Error::other("cut off"))];
    let body = Body::from_stream(futures::stream::iter(pieces));
    Response::builder()
        .header(header::CONTENT_LENGTH, length)
        .header(header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")
        .header(header::ETAG, "\"1\"")
        .body(body)
        .unwrap()
}

fn xml(text: String) -> Response<Body> {
    Response::builder()
        .header(header::CONTENT_TYPE, "application/xml")
        .body(text.into())
        .unwrap()
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

impl Shared {
    fn answer(&self, seen: &Seen, range: Option<&str>, body: Bytes, hide: bool) -> Response<Body> {
        let (key, query) = (&seen.key, seen.query.as_str());
        let upload = parameter(query, "uploadId");
        match (seen.method.as_str(), upload) {
            ("GET", _) if key.is_empty() => self.list(query, hide),
            ("GET" | "HEAD", _) => self.get(key, range, seen.method == Method::HEAD),
            ("PUT", Some(id)) => {
                let number = parameter(query, "partNumber").and_then(|number| number.parse().ok());
                match (self.uploads.lock().unwrap().get_mut(&id), number) {
                    (Some(parts), Some(number)) => drop(parts.insert(number, body)),
                    _ => return status(404),
                }
                tagged(&id)
            }
            ("PUT", None) => {
                self.objects.lock().unwrap().insert(key.clone(), body);
                tagged(key)
            }
            ("POST", Some(id)) => match self.uploads.lock().unwrap().remove(&id) {
                Some(parts) => {
                    let whole: Vec<u8> = parts.into_values().flatten().collect();
                    self.objects.lock().unwrap().insert(key.clone(), whole.into());
                    xml("<CompleteMultipartUploadResult><ETag>\"1\"</ETag></CompleteMultipartUploadResult>".to_owned())
                }
                None => status(404),
            },
            ("POST", None) if query.contains("uploads") => {
                let id = format!("upload-{}", seen.number);
                self.uploads.lock().unwrap().insert(id.clone(), BTreeMap::new());
                xml(format!(
                    "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                ))
            }
            ("POST", None) if query.contains("delete") => self.delete_many(&String::from_utf8_lossy(&body)),
            ("DELETE", Some(id)) => {
                self.uploads.lock().unwrap().remove(&id);
                status(204)
            }
            ("DELETE", None) => {
                self.objects.lock().unwrap().remove(key);
                status(204)
            }
            _ => status(400),
        }
    }

    fn get(&self, key: &str, range: Option<&str>, bare: bool) -> Response<Body> {
        let Some(object) = self.objects.lock().unwrap().get(key).cloned() else {
            return status(404);
        };
        let size = object.len();
        let answer = Response::builder()
            .header(header::LAST_MODIFIED, "Thu, 01 Jan 2026 00:00:00 GMT")
            .header(header::ETAG, "\"1\"");
        let bounds = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let Some((from, to)) = bounds else {
            let answer = answer.header(header::CONTENT_LENGTH, size);
            self.bytes.fetch_add(if bare { 0 } else { size }, Ordering::SeqCst);
            return answer.body(if bare { Body::empty() } else { object.into() }).unwrap();
        };
        let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
            (Ok(from), Ok(to)) => (from, to.min(size.saturating_sub(1))),
            (Ok(from), Err(_)) => (from, size.saturating_sub(1)),
            (Err(_), Ok(last)) => (size.saturating_sub(last), size.saturating_sub(1)),
            _ => return status(400),
        };
        if from >= size {
            return status(416);
        }
        self.bytes.fetch_add(to + 1 - from, Ordering::SeqCst);
        answer
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_RANGE, format!("bytes {from}-{to}/{size}"))
            .body(object.slice(from..=to).into())
            .unwrap()
    }

    fn list(&self, query: &str, hide: bool) -> Response<Body> {
        let prefix = parameter(query, "prefix").unwrap_or_default();
        let after = parameter(query, "continuation-token").or_else(|| parameter(query, "start-after"));
        let after = after.unwrap_or_default();
        let objects = self.objects.lock().unwrap();
        let mut keys = objects
            .iter()
            .filter(|(key, _)| !hide && key.starts_with(&prefix) && **key > after);
        let page: Vec<_> = keys.by_ref().take(PAGE_KEYS).collect();
        let more = keys.next().is_some();
        let mut text = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
        if let (true, Some((last, _))) = (more, page.last()) {
            text.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
        }
        for (key, object) in page {
            text.push_str(&format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"1\"</ETag><Size>{}</Size></Contents>",
                object.len()
            ));
        }
        text.push_str("</ListBucketResult>");
        xml(text)
    }

    fn delete_many(&self, body: &str) -> Response<Body> {
        let mut text = "<DeleteResult>".to_owned();
        for piece in body.split("<Key>").skip(1) {
            let key = piece.split("</Key>").next().unwrap_or("");
            self.objects.lock().unwrap().remove(key);
            text.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
        }
        text.push_str("</DeleteResult>");
        xml(text)
    }
}

fn tagged(what: &str) -> Response<Body> {
    Response::builder()
        .header(header::ETAG, format!("\"{:x}\"", what.len()))
        .body(Body::empty())
        .unwrap()
}
