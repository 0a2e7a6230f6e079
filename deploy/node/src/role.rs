//! What a process is for. All roles are the same parts, put together by [`crate::assemble`]; a role says which of them.

use std::fmt;

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything in one process.
    All,
    /// Takes writes for a ring, and answers queries.
    Receive,
    /// Serves the blocks of a bucket to queriers.
    Store,
    /// Answers PromQL from other processes.
    Query,
}

impl Role {
    /// The role that the first word of a command line names.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "receive" => Some(Role::Receive),
            "store" => Some(Role::Store),
            "query" => Some(Role::Query),
            _ => None,
        }
    }

    /// Whether it takes samples and holds a head.
    pub fn ingests(self) -> bool {
        matches!(self, Role::All | Role::Receive)
    }

    /// Whether it reads a bucket; `configured` says whether one is named by the settings. Without a name there is the one in the data
    /// folder, which a querier has nothing to do with.
    pub fn reads_bucket(self, configured: bool) -> bool {
        match self {
            Role::All | Role::Receive | Role::Store => true,
            Role::Query => configured,
        }
    }

    /// Whether it answers PromQL.
    pub fn queries(self) -> bool {
        matches!(self, Role::All | Role::Receive | Role::Query)
    }

    /// What a Thanos querier shows for it.
    pub fn component(self) -> &'static str {
        match self {
            Role::All | Role::Receive => "receive",
            Role::Store => "store",
            Role::Query => "query",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::All => "all roles in one process",
            Role::Receive => "receive, a member of a ring",
            Role::Store => "store, the blocks of a bucket",
            Role::Query => "query, PromQL over other processes",
        })
    }
}
