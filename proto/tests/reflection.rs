//! Asks a process over the wire what it speaks, as tools do.
#![expect(clippy::disallowed_methods, reason = "a test with a server of its own")]

use futures::StreamExt as _;
use proto::{grpc::Routes, thanos::add_reflection};
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

async fn ask(address: &str, question: MessageRequest) -> MessageResponse {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = ServerReflectionClient::new(channel.connect().await.unwrap());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(question),
    };
    let answers = client.server_reflection_info(futures::stream::iter([request])).await;
    let answer = answers.unwrap().into_inner().next().await.unwrap().unwrap();
    answer.message_response.unwrap()
}

#[tokio::test]
async fn a_process_tells_what_it_speaks() {
    for (takes_writes, services) in [(true, 6), (false, 5)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (_ready, told) = tokio::sync::watch::channel(true);
        let routes = add_reflection(Routes::default(), takes_writes).unwrap();
        tokio::spawn(async move {
            let security = proto::grpc::security::Security::default();
            proto::grpc::serve(listener, told, routes, &security, std::future::pending()).await
        });

        let MessageResponse::ListServicesResponse(list) =
            ask(&address, MessageRequest::ListServices(String::new())).await
        else {
            panic!("no list");
        };
        let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
        assert!(names.contains(&"thanos.Store".to_owned()), "{names:?}");
        assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
        assert_eq!(names.contains(&"thanos.WriteableStore".to_owned()), takes_writes);
        assert_eq!(names.len(), services, "{names:?}");

        let symbol = MessageRequest::FileContainingSymbol("thanos.Store.Series".to_owned());
        let MessageResponse::FileDescriptorResponse(files) = ask(&address, symbol).await else {
            panic!("no description");
        };
        let text = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
        assert!(text.contains("without_replica_labels"), "{text}");
    }
}
