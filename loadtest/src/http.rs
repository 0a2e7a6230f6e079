//! A small blocking HTTP/1.1 client: one connection kept alive, requests one after the other.
//!
//! The write loop, the ledger's reader and the tests use it. It is plain because the generator must cost little beside
//! the server it measures; it speaks no TLS.

use anyhow::{Context, bail, ensure};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

/// Longest accepted answer. A larger one means that a query was not cut into pieces.
const BODY_BYTES_MAX: usize = 1 << 30;

/// Longest accepted status line and headers together.
const HEAD_BYTES_MAX: u64 = 256 << 10;

/// An `http://` address, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `host:port`, as a socket address and as the `Host` header.
    pub authority: String,
    /// Path and query, at least `/`.
    pub path: String,
}

impl Url {
    /// Takes `http://host[:port][/path]` apart.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let Some(rest) = text.strip_prefix("http://") else {
            bail!("{text:?} does not begin with http:// (this client speaks no TLS)");
        };
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        ensure!(!host.is_empty(), "{text:?} names no host");
        ensure!(
            !host.contains('@'),
            "{text:?}: give credentials by --header \"Authorization: …\""
        );
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port {
            host.to_owned()
        } else {
            format!("{host}:80")
        };
        Ok(Self {
            authority,
            path: path.to_owned(),
        })
    }

    /// The same server, another path below this one's.
    pub fn join(&self, path: &str) -> Self {
        Self {
            authority: self.authority.clone(),
            path: format!("{}{path}", self.path.trim_end_matches('/')),
        }
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, without transfer encoding.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text, damaged characters replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection to one server. It is opened when first needed and again after an error.
pub struct Client {
    authority: String,
    /// Header lines sent with every request.
    headers: String,
    timeout: Duration,
    stream: Option<BufReader<TcpStream>>,
    request: Vec<u8>,
}

impl Client {
    /// A client of the server that `url` names, with `headers` on every request. `timeout` bounds connecting and each
    /// wait for bytes.
    pub fn new(url: &Url, headers: &[(String, String)], timeout: Duration) -> Self {
        let mut lines = format!(
            "Host: {}\r\nUser-Agent: narthex-loadtest/{}\r\n",
            url.authority,
            crate::VERSION
        );
        for (name, value) in headers {
            lines.push_str(&format!("{name}: {value}\r\n"));
        }
        Self {
            authority: url.authority.clone(),
            headers: lines,
            timeout,
            stream: None,
            request: Vec::new(),
        }
    }

    /// Fetches a path.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.send("GET", path, "", b"")
    }

    /// Sends a body; `headers` are whole lines with their line ends.
    pub fn post(&mut self, path: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
        self.send("POST", path, headers, body)
    }

    /// Sends a request and reads its answer. After an error nobody knows whether the server acted on it.
    ///
    /// A server may close a connection that was idle for long just when the next request leaves. So a request that meets
    /// a closed connection before any byte of an answer came is sent once more on a new one; everything sent here may be
    /// repeated.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
        self.request.clear();
        let common = &self.headers;
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\n{common}{headers}Content-Length: {}\r\n\r\n",
            body.len()
        )?;
        self.request.extend_from_slice(body);
        // An error on the way leaves a connection in an unknown state; it is put back only after a whole answer.
        let mut stream = match self.stream.take() {
            None => self.begin(self.connect()?)?,
            Some(used) => match self.begin(used) {
                Err(error) if is_closed(&error) => self.begin(self.connect()?)?,
                begun => begun?,
            },
        };
        let (response, keep) = read_response(&mut stream, method == "HEAD")?;
        if keep {
            self.stream = Some(stream);
        }
        Ok(response)
    }

    /// Sends the prepared request and waits for the first bytes of the answer.
    fn begin(&self, mut stream: BufReader<TcpStream>) -> io::Result<BufReader<TcpStream>> {
        stream.get_mut().write_all(&self.request)?;
        if stream.fill_buf()?.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(stream)
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    return Ok(BufReader::with_capacity(16 << 10, stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// Whether the other side had hung up, as opposed to being slow.
fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    [BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof].contains(&error.kind())
}

/// Reads one answer; says also whether the connection can carry another request.
fn read_response(stream: &mut impl BufRead, bodyless: bool) -> io::Result<(Response, bool)> {
    let mut head = stream.take(HEAD_BYTES_MAX);
    let status_line = read_line(&mut head)?;
    let mut words = status_line.split(' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|code| code.parse::<u16>().ok());
    let (true, Some(status)) = (version.starts_with("HTTP/1."), status) else {
        return Err(invalid(format!("not an HTTP/1 status line: {status_line:?}")));
    };
    let mut headers = Vec::new();
    loop {
        let line = read_line(&mut head)?;
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else {
            return Err(invalid(format!("not a header: {line:?}")));
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    if status < 200 {
        return Err(invalid(format!(
            "interim answer {status}, which no request here asks for"
        )));
    }
    let mut keep = version == "HTTP/1.1" && response.header("connection").is_none_or(|value| value != "close");
    if bodyless || status == 204 || status == 304 {
        return Ok((response, keep));
    }
    if response
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        response.body = read_chunks(stream)?;
    } else if let Some(length) = response.header("content-length") {
        let length = length
            .parse()
            .map_err(|_| invalid(format!("content-length {length:?}")))?;
        read_exactly(stream, length, &mut response.body)?;
    } else {
        keep = false;
        stream.take(BODY_BYTES_MAX as u64).read_to_end(&mut response.body)?;
    }
    Ok((response, keep))
}

fn read_chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(&mut stream.take(HEAD_BYTES_MAX))?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).map_err(|_| invalid(format!("chunk length {line:?}")))?;
        if length == 0 {
            // Trailers, up to the empty line.
            while !read_line(&mut stream.take(HEAD_BYTES_MAX))?.is_empty() {}
            return Ok(body);
        }
        read_exactly(stream, length, &mut body)?;
        read_line(&mut stream.take(HEAD_BYTES_MAX))?;
    }
}

/// Appends `length` bytes to `body`, without trusting the number for the allocation.
fn read_exactly(stream: &mut impl BufRead, length: usize, body: &mut Vec<u8>) -> io::Result<()> {
    if length > BODY_BYTES_MAX - body.len() {
        return Err(invalid(format!("an answer of more than {BODY_BYTES_MAX} bytes")));
    }
    let got = stream.take(length as u64).read_to_end(body)?;
    if got < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

fn read_line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map_err(|_| invalid("a header that is not UTF-8".to_owned()))
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Encodes pairs as `application/x-www-form-urlencoded`, for query parameters.
pub fn form(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (byte as char).to_string(),
                _ => format!("%{byte:02X}"),
            })
            .collect()
    };
    let fields: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
        .collect();
    fields.join("&")
}

/// Takes a `NAME: VALUE` argument apart.
pub fn parse_header(text: &str) -> anyhow::Result<(String, String)> {
    let (name, value) = text
        .split_once(':')
        .with_context(|| format!("header {text:?} has no colon"))?;
    ensure!(!text.contains(['\r', '\n']), "header {text:?} holds a line end");
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<(Response, bool)> {
        read_response(&mut text.as_bytes(), false)
    }

    #[test]
    fn urls_are_taken_apart() {
        let check = |text: &str, authority: &str, path: &str| {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.authority.as_str(), url.path.as_str()), (authority, path), "{text}");
        };
        check("http://localhost:9090", "localhost:9090", "/");
        check("http://localhost/api/v1/write", "localhost:80", "/api/v1/write");
        check("http://[::1]:9/x?y=z", "[::1]:9", "/x?y=z");
        assert_eq!(Url::parse("http://a:1/base/").unwrap().join("/x").path, "/base/x");
        for bad in ["https://localhost", "localhost:9090", "http://", "http://user@host/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_with_length_chunks_and_without_body_are_read() {
        let (response, keep) = read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\nabcNEXT").unwrap();
        assert_eq!(
            (response.status, response.text().as_str(), response.header("x-a"), keep),
            (200, "abc", Some("b"), true)
        );
        let (response, _) =
            read("HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!((response.status, response.text().as_str()), (400, "abc"));
        let (response, keep) = read("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!((response.status, response.body.len(), keep), (204, 0, false));
    }

    #[test]
    fn broken_answers_are_errors() {
        let cases = [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 X\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
        ];
        for case in cases {
            assert!(read(case).is_err(), "{case:?}");
        }
    }

    #[test]
    fn a_connection_closed_while_idle_is_opened_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        // Two connections, one answer on each, then it hangs up although it promised to stay.
        let server = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).unwrap() > 0);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .unwrap();
            }
        });
        let mut client = Client::new(&url, &[], Duration::from_secs(5));
        for _ in 0..2 {
            assert_eq!(client.get("/").unwrap().text(), "ok");
            std::thread::sleep(Duration::from_millis(50));
        }
        server.join().unwrap();
        assert!(client.get("/").is_err(), "nobody listens any more");
    }

    #[test]
    fn forms_are_escaped() {
        assert_eq!(
            form(&[("query", "a{b=\"ü\"}+1"), ("x", "y~")]),
            "query=a%7Bb%3D%22%C3%BC%22%7D%2B1&x=y~"
        );
    }
}
