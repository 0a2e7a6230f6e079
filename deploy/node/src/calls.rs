//! What this process answers besides the calls of the querier, for the OpenAPI document.
//!
//! `loadtest/tests/features.rs` asks each of them, so that what is told of is served.

use querier::status::OtherCall;

/// What every process answers.
const ALWAYS: &[OtherCall] = &[
    OtherCall {
        path: "/",
        methods: &["get"],
        tag: "process",
        about: "How to send samples and ask questions, for people.",
        body: "",
        answers: &[("200", "A few lines.", "text/plain")],
    },
    OtherCall {
        path: "/-/healthy",
        methods: &["get"],
        tag: "process",
        about: "Whether the process runs.",
        body: "",
        answers: &[("200", "It does.", "text/plain")],
    },
    OtherCall {
        path: "/-/ready",
        methods: &["get"],
        tag: "process",
        about: "Whether everything is served.",
        body: "",
        answers: &[
            ("200", "Everything is.", "text/plain"),
            ("503", "Not yet; the progress of the start.", "text/plain"),
        ],
    },
    OtherCall {
        path: "/metrics",
        methods: &["get"],
        tag: "process",
        about: "The metrics of the process itself.",
        body: "",
        answers: &[("200", "OpenMetrics text.", "application/openmetrics-text")],
    },
    OtherCall {
        path: "/api/v1/admin/cut",
        methods: &["post", "put"],
        tag: "admin",
        about: "Cuts everything in memory into blocks, ships them, and lists them. Needs --web.enable-admin-api.",
        body: "",
        answers: &[
            ("200", "The blocks, which are in the bucket.", "application/json"),
            ("403", "The operator has not switched it on.", "application/json"),
            ("404", "This process takes no samples.", "application/json"),
            (
                "503",
                "Not everything could be cut and shipped; asking again is safe.",
                "application/json",
            ),
        ],
    },
];

/// What a process with a ring answers.
const RING: &[OtherCall] = &[
    OtherCall {
        path: "/ring",
        methods: &["get"],
        tag: "ring",
        about: "The ring, for people.",
        body: "",
        answers: &[("200", "A page.", "text/html")],
    },
    OtherCall {
        path: "/api/v1/cluster/ring",
        methods: &["get"],
        tag: "ring",
        about: "The ring: its epoch, replication factor and members.",
        body: "",
        answers: &[("200", "The ring.", "application/json")],
    },
    OtherCall {
        path: "/api/v1/cluster/ring/{change}",
        methods: &["post"],
        tag: "ring",
        about: "Changes the ring, as `narthex tools ring` does.",
        body: "application/json",
        answers: &[
            ("200", "The ring as it is now.", "application/json"),
            ("default", "Why it was not changed.", "application/json"),
        ],
    },
];

/// The write path, whatever its name.
const WRITE: OtherCall = OtherCall {
    path: "",
    methods: &["get", "post"],
    tag: "write",
    about: "Remote write 1.0 and 2.0, compressed with snappy, zstd or gzip. GET tells how to use it.",
    body: "application/x-protobuf",
    answers: &[
        ("200", "To GET: how to use it.", "text/plain"),
        ("204", "Every sample is stored, and synced to disk.", ""),
        (
            "400",
            "What is in the text can never be stored; the rest of the request is.",
            "text/plain",
        ),
        ("415", "The encoding or kind of message is not known.", "text/plain"),
        ("503", "Not now; the same request may be sent again.", "text/plain"),
    ],
};

/// All of them, in a process that takes samples or does not.
pub(crate) fn other_calls(takes_samples: bool) -> Vec<OtherCall> {
    let mut calls = ALWAYS.to_vec();
    if takes_samples {
        let paths = receiver::http::PATHS.into_iter().chain(receiver::http::TENANT_PATHS);
        calls.extend(paths.map(|path| OtherCall { path, ..WRITE }));
        calls.extend(RING);
    }
    calls
}
