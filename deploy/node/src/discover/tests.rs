//! Names, files and a name server on loopback.

use super::*;
use model::env::memory::MemoryFs;
use parking_lot::Mutex;

#[derive(Default)]
struct Book {
    hosts: Mutex<BTreeMap<String, Vec<String>>>,
    services: Mutex<BTreeMap<String, Vec<(String, u16)>>>,
}

impl Resolve for Book {
    fn addresses(&self, host: String) -> BoxFuture<'_, anyhow::Result<Vec<String>>> {
        let found = self.hosts.lock().get(&host).cloned();
        Box::pin(async move { found.context("no such host") })
    }

    fn services(&self, name: String) -> BoxFuture<'_, anyhow::Result<Vec<(String, u16)>>> {
        let found = self.services.lock().get(&name).cloned();
        Box::pin(async move { found.context("no such service") })
    }
}

#[test]
fn words_are_taken_apart() {
    assert_eq!(Spec::parse("a:1"), Ok(Spec::Plain("a:1".into())));
    assert_eq!(Spec::parse("[::1]:1"), Ok(Spec::Plain("[::1]:1".into())));
    assert_eq!(Spec::parse("dns+a.b:99"), Ok(Spec::Addresses("a.b".into(), 99)));
    assert_eq!(Spec::parse("dnssrv+_x._tcp.y"), Ok(Spec::Services("_x._tcp.y".into())));
    for wrong in ["", "a", ":1", "a:port", "http://a:1", "dns+a", "dnssrv+", "a:70000"] {
        assert!(Spec::parse(wrong).is_err(), "{wrong:?} was accepted");
    }
}

#[tokio::test]
async fn names_keep_their_last_answer_and_files_are_read_again() {
    let fs = Arc::new(MemoryFs::new());
    let path = PathBuf::from("/endpoints.yml");
    let write = |text: &str| {
        let _ = fs.remove_file(&path);
        fs.create(&path).unwrap().append(text.as_bytes()).unwrap();
    };
    write("- c:3\n- targets: ['d:4', 'dnssrv+_s']\n");
    let book = Arc::new(Book::default());
    book.hosts
        .lock()
        .insert("h".into(), vec!["10.0.0.1".into(), "::2".into()]);
    let spec = |text| Spec::parse(text).unwrap();
    let mut discovery = Discovery {
        fixed: vec![spec("a:1"), spec("dns+h:2")],
        files: vec![path.clone()],
        fs: fs.clone(),
        dns: book.clone(),
        names: BTreeMap::new(),
        listed: BTreeMap::new(),
    };
    let shown = |addresses: BTreeSet<String>| addresses.into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(
        shown(discovery.addresses().await),
        "10.0.0.1:2 [::2]:2 _s:0 a:1 c:3 d:4"
    );
    book.hosts.lock().clear();
    book.services.lock().insert("_s".into(), vec![("e".into(), 5)]);
    assert_eq!(shown(discovery.addresses().await), "10.0.0.1:2 [::2]:2 a:1 c:3 d:4 e:5");
    write("nonsense: [");
    assert_eq!(shown(discovery.addresses().await), "10.0.0.1:2 [::2]:2 a:1 c:3 d:4 e:5");
    write("[]");
    assert_eq!(shown(discovery.addresses().await), "10.0.0.1:2 [::2]:2 a:1");
}

/// The records of one small zone: A, AAAA and SRV.
fn records(name: &str, kind: u16) -> Vec<Vec<u8>> {
    let target = |port: u16, host: &str| {
        let mut data = [0u16, 1, port]
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect::<Vec<u8>>();
        data.extend(encoded(host));
        data
    };
    match (name, kind) {
        ("store.example", 1) => vec![vec![10, 0, 0, 1], vec![10, 0, 0, 2]],
        ("store.example" | "six.example", 28) => vec![[0xfd; 16].to_vec()],
        ("_grpc._tcp.example", 33) => vec![target(10901, "a.example"), target(10902, "b.example")],
        _ => Vec::new(),
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let parts = name
        .split('.')
        .flat_map(|part| std::iter::once(part.len() as u8).chain(part.bytes()));
    parts.chain([0]).collect()
}

/// The answer to a question of one name.
fn answer(question: &[u8]) -> Vec<u8> {
    let (mut at, mut name) = (12, Vec::new());
    while question[at] > 0 {
        let end = at + 1 + question[at] as usize;
        name.push(String::from_utf8(question[at + 1..end].to_vec()).unwrap());
        at = end;
    }
    let kind = u16::from_be_bytes([question[at + 1], question[at + 2]]);
    let found = records(&name.join(".").to_lowercase(), kind);
    // An answer with authority; the question is repeated, each record names it by its place.
    let mut text = question[..2].to_vec();
    text.extend([0x84, 0, 0, 1, 0, found.len() as u8, 0, 0, 0, 0]);
    text.extend(&question[12..at + 5]);
    for data in found {
        text.extend([0xc0, 12]);
        text.extend(kind.to_be_bytes());
        text.extend([0, 1, 0, 0, 0, 60]);
        text.extend((data.len() as u16).to_be_bytes());
        text.extend(data);
    }
    text
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test's name server")]
async fn a_name_server_gives_addresses_of_both_kinds_and_services() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, asker)) = socket.recv_from(&mut buffer).await {
            socket.send_to(&answer(&buffer[..length]), asker).await.unwrap();
        }
    });
    let spec = |text| Spec::parse(text).unwrap();
    let mut discovery = Discovery {
        fixed: vec![
            spec("dns+store.example:1"),
            spec("dns+six.example:2"),
            spec("dnssrv+_grpc._tcp.example"),
            spec("dns+gone.example:3"),
        ],
        files: Vec::new(),
        fs: Arc::new(MemoryFs::new()),
        dns: Arc::new(SystemDns::asking(server)),
        names: BTreeMap::new(),
        listed: BTreeMap::new(),
    };
    let six = "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]";
    let expected = [
        "10.0.0.1:1".to_owned(),
        "10.0.0.2:1".to_owned(),
        format!("{six}:1"),
        format!("{six}:2"),
        "a.example:10901".to_owned(),
        "b.example:10902".to_owned(),
        // It is missed under its name.
        "gone.example:3".to_owned(),
    ];
    assert_eq!(discovery.addresses().await, BTreeSet::from(expected));
}
