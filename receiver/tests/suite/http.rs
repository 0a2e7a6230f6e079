//! The write path over HTTP: paths, methods, bodies in pieces, and limits of bytes, memory and time.

use crate::common::*;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::StatusCode;
use http_body_util::BodyExt;
use model::push::memory::MemoryTaker;
use proto::compression::snappy;
use receiver::ReceiverSettings;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

const UP: &[(&str, &str)] = &[("__name__", "up"), ("job", "a")];

fn body() -> Vec<u8> {
    snappy(&v1_floats(&[(UP, &[(NOW, 1.0)])]))
}

fn post(path: &str, body: Body) -> Request<Body> {
    let builder = Request::post(path)
        .header("content-type", V1)
        .header("content-encoding", "snappy");
    builder.body(body).unwrap()
}

async fn send(stand: &Stand, request: Request<Body>) -> Response<Body> {
    receiver::http::routes(stand.receiver.clone())
        .oneshot(request)
        .await
        .unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

const PATHS: [&str; 6] = [
    "/api/v1/write",
    "/api/v1/receive",
    "/api/v1/push",
    "/api/prom/push",
    "/prometheus/api/v1/write",
    "/api/v1/remote_write",
];

#[tokio::test]
async fn every_known_path_takes_writes() {
    for path in PATHS {
        let stand = Stand::default();
        let response = send(&stand, post(path, Body::from(body()))).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{path}");
        assert_eq!(text(response).await, "");
        assert_eq!(stand.floats(UP), [(NOW, 1.0)], "{path}");
    }
}

#[tokio::test]
async fn the_path_may_name_the_tenant() {
    let stand = Stand::default();
    for (path, tenant) in [
        ("/t/one/api/v1/write", "one"),
        ("/t/two/api/v1/receive", "two"),
        ("/t/a%2Eb/api/v1/write", "a.b"),
    ] {
        assert_eq!(
            send(&stand, post(path, Body::from(body()))).await.status(),
            204,
            "{path}"
        );
        assert_eq!(stand.floats_of(tenant, UP), [(NOW, 1.0)], "{path}");
    }
    for path in [
        "/t/a%2Fb/api/v1/write",
        "/t/../api/v1/write",
        "/t/a%00/api/v1/write",
        "/t/%ff/api/v1/write",
    ] {
        let status = send(&stand, post(path, Body::from(body()))).await.status();
        assert!(status.is_client_error(), "{path}: {status}");
    }
    let mut contradiction = post("/t/one/api/v1/write", Body::from(body()));
    contradiction
        .headers_mut()
        .insert("x-scope-orgid", "two".parse().unwrap());
    assert_eq!(send(&stand, contradiction).await.status(), 400);
    assert_eq!(stand.taker.sample_count(), 3);
}

#[tokio::test]
async fn looking_at_a_write_path_gives_200_and_a_paragraph() {
    for path in PATHS
        .into_iter()
        .chain(["/t/one/api/v1/write", "/t/one/api/v1/receive"])
    {
        let stand = Stand::default();
        let response = send(&stand, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 200, "{path}");
        let words = text(response).await;
        assert!(
            words.contains("remote_write") && words.contains("THANOS-TENANT"),
            "{words}"
        );
        let response = send(&stand, Request::head(path).body(Body::empty()).unwrap()).await;
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, ""));
        let response = send(&stand, Request::put(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), 405, "{path}");
    }
}

#[tokio::test]
async fn a_body_may_come_in_pieces() {
    let stand = Stand::default();
    let body = body();
    let pieces: Vec<io::Result<Bytes>> = body.chunks(3).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let response = send(&stand, post("/api/v1/write", Body::from_stream(stream::iter(pieces)))).await;
    assert_eq!(response.status(), 204);
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[tokio::test]
async fn a_body_over_the_limit_is_400_naming_it_whether_declared_or_not() {
    let settings = ReceiverSettings {
        body_bytes_max: 1_000,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let pieces = stream::repeat_with(|| Ok::<_, io::Error>(Bytes::from(vec![0u8; 100]))).take(11);
    let mut v2 = post("/api/v1/write", Body::from_stream(pieces));
    v2.headers_mut().insert("content-type", V2.parse().unwrap());
    let mut declared = post("/api/v1/write", Body::from(vec![0u8; 1_001]));
    declared.headers_mut().insert("content-length", "1001".parse().unwrap());
    for (request, counts) in [(v2, true), (declared, false)] {
        let response = send(&stand, request).await;
        assert_eq!(response.status(), 400);
        assert_eq!(
            response
                .headers()
                .contains_key("x-prometheus-remote-write-samples-written"),
            counts
        );
        let text = text(response).await;
        assert!(text.contains("limit of 1000 bytes"), "{text}");
    }
    let fits = send(&stand, post("/api/v1/write", Body::from(body()))).await;
    assert_eq!(fits.status(), 204);
}

#[tokio::test]
async fn a_body_that_never_ends_is_503_in_time() {
    let settings = ReceiverSettings {
        body_timeout: Duration::from_millis(50),
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let piece = Ok::<_, io::Error>(Bytes::from_static(b"\x10"));
    let endless = Body::from_stream(stream::iter([piece]).chain(stream::pending()));
    let response = send(&stand, post("/api/v1/write", endless)).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    assert!(text(response).await.contains("did not arrive within 50ms"));
    assert_eq!(
        stand.metric("narthex_receiver_write_requests_total{version=\"1.0\",code=\"503\"}"),
        1.0
    );
}

#[tokio::test]
async fn a_body_that_breaks_off_is_503_and_stores_nothing() {
    let stand = Stand::default();
    let pieces = [
        Ok(Bytes::from(body())),
        Err(io::Error::from(io::ErrorKind::ConnectionReset)),
    ];
    let response = send(&stand, post("/api/v1/write", Body::from_stream(stream::iter(pieces)))).await;
    assert_eq!(response.status(), 503);
    assert_eq!(stand.taker.sample_count(), 0);
}

#[tokio::test]
async fn bodies_in_progress_share_one_bound() {
    let settings = ReceiverSettings {
        in_flight_bytes_max: 10_000,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let router = receiver::http::routes(stand.receiver.clone());
    let piece = Ok::<_, io::Error>(Bytes::from(vec![0u8; 9_950]));
    let waiting = post(
        "/api/v1/write",
        Body::from_stream(stream::iter([piece]).chain(stream::pending())),
    );
    let slow = tokio::time::timeout(Duration::from_millis(50), router.clone().oneshot(waiting));
    let (slow, response) = tokio::join!(slow, async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        router
            .clone()
            .oneshot(post("/api/v1/write", Body::from(body())))
            .await
            .unwrap()
    });
    assert!(slow.is_err(), "the slow sender is still sending");
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    // The slow sender has gone, and what it held with it.
    assert_eq!(
        send(&stand, post("/api/v1/write", Body::from(body()))).await.status(),
        204
    );
}

/// Sends raw bytes over a socket and returns all that comes back.
async fn raw(stand: &Stand, pieces: &[&[u8]]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = receiver::http::routes(stand.receiver.clone());
    let talk = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for piece in pieces {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::select! {
        served = axum::serve(listener, router) => panic!("the server ended: {served:?}"),
        answer = talk => answer,
        () = tokio::time::sleep(Duration::from_secs(10)) => panic!("no answer within ten seconds"),
    }
}

#[tokio::test]
async fn chunked_bodies_with_trailers_and_expectations_work_over_a_socket() {
    let stand = Stand::default();
    let body = body();
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-encoding: snappy\r\n\
         transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n{:x}\r\n",
        body.len()
    );
    let answer = raw(&stand, &[head.as_bytes(), &body, b"\r\n0\r\nx-sum: 1\r\n\r\n"]).await;
    assert!(
        answer.contains("100 Continue") && answer.contains("204 No Content"),
        "{answer}"
    );
    assert_eq!(stand.floats(UP), [(NOW, 1.0)]);
}

#[tokio::test]
async fn the_answer_to_a_body_that_is_too_large_arrives_and_is_no_reset() {
    let settings = ReceiverSettings {
        body_bytes_max: 1_000,
        ..ReceiverSettings::default()
    };
    let stand = Stand::new(settings, MemoryTaker::new());
    let large = vec![0u8; 8 << 20];
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-encoding: snappy\r\ncontent-length: {}\r\n\r\n",
        large.len()
    );
    let answer = raw(&stand, &[head.as_bytes(), &large]).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("limit of 1000 bytes"), "{answer}");
}
