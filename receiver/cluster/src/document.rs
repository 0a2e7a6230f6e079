//! The ring document: who is in the ring and what all agree on, as one value with an epoch.
//!
//! A [`Command`] applied to a document gives the next one or says why not; there is no other way to change it, and it needs no clock, no
//! file and no network. Each member applies the same commands in the same order and so has the same document.
//! [`Document::check`] is what always holds; it is asked where a document is made and where one is read.

use crate::{
    limits::Limits,
    member::{Member, MemberError, MemberId, State, check_address, check_weight, check_zone},
};
use model::tenant::{Tenant, TenantError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Most copies of a series.
pub const REPLICATION_FACTOR_MAX: u32 = 9;

/// Most members, those that are gone not counted. It bounds the lookup table and the fan-out of a read.
pub const MEMBERS_MAX: usize = 500;

/// Most members that are remembered as gone; the one that left first is forgotten first.
pub const GONE_MAX: usize = 100;

/// Most tenants with limits of their own.
pub const TENANTS_MAX: usize = 10_000;

/// How far before its time stamp a sample may have been written: clocks of senders, and members that learn late of a change.
const AHEAD_MS: i64 = 3_600_000;

/// Largest document as JSON: all bounds above reached, with room to spare.
pub const DOCUMENT_BYTES_MAX: usize = 16 << 20;

/// Who is in the ring and what all agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Counts the changes; a higher one is newer. 0 is the document before the ring was founded.
    pub epoch: u64,
    /// Copies of each series, on distinct members.
    pub replication_factor: u32,
    /// Older samples of which there are fewer copies than that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thin: Option<Thin>,
    /// All members, ascending by id.
    pub members: Vec<Member>,
    /// Limits of tenants that have none of their own.
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    /// Limits of single tenants, by tenant id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tenants: BTreeMap<String, Limits>,
}

/// Samples that were written before the factor was raised, or before a member was lost with its disk: no one copies what lies on the
/// disks of a ring, it comes into the bucket in time. Readers must not take an answer without some member for a whole one as lightly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thin {
    /// Milliseconds since 1970: samples of earlier times are meant.
    pub until_ms: i64,
    /// Members that may fail while some other still has each of them.
    pub spare: u32,
}

/// A change of the document. A new kind may be proposed only when every member runs a version that knows it: a member that cannot read
/// an agreed command stops following the group rather than going another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Founds the ring with its first member, which is active at once.
    Found {
        /// The first member.
        member: Newcomer,
        /// Copies of each series.
        replication_factor: u32,
    },
    /// A member announces itself: a new one is JOINING afterwards, one that was GONE too; one that is known keeps its state and weight and
    /// tells where it is now.
    Join {
        /// Who announces itself.
        member: Newcomer,
    },
    /// A member that is JOINING or LEAVING owns series from now on.
    Activate {
        /// Which member.
        id: MemberId,
    },
    /// A member takes no new series from now on and is to ship what it has.
    Drain {
        /// Which member.
        id: MemberId,
    },
    /// A member is gone for good: it has shipped everything, or its disk is lost.
    Remove {
        /// Which member.
        id: MemberId,
        /// Also when fewer active members than copies would remain.
        #[serde(default)]
        force: bool,
        /// When its disk was lost, in milliseconds since 1970; nothing when it has shipped everything.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lost_ms: Option<i64>,
    },
    /// Changes the share of a member.
    SetWeight {
        /// Which member.
        id: MemberId,
        /// Its new weight.
        weight: u32,
    },
    /// Changes the number of copies of each series.
    SetReplicationFactor {
        /// The new number.
        replication_factor: u32,
        /// When that is, in milliseconds since 1970.
        #[serde(default)]
        at_ms: i64,
    },
    /// Replaces the limits of all tenants that have none of their own.
    SetLimits {
        /// The new limits.
        limits: Limits,
    },
    /// Replaces the limits of one tenant; empty limits take them away.
    SetTenant {
        /// Which tenant.
        tenant: String,
        /// Its new limits.
        limits: Limits,
    },
}

/// What a member says of itself when it announces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newcomer {
    /// Who it is.
    pub id: MemberId,
    /// Where its gRPC listener is reached: `host:port`.
    pub address: String,
    /// Its zone, or empty.
    pub zone: String,
    /// Its weight when it is new.
    pub weight: u32,
}

/// Why a command does not fit the document, or bytes are none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum DocumentError {
    /// The ring was not founded yet.
    #[error("there is no ring yet: start one receiver without --cluster.join to found it")]
    NotFounded,
    /// The ring was founded before.
    #[error("the ring is founded already, at epoch {0}")]
    Founded(u64),
    /// No such member.
    #[error("no member {0} in the ring")]
    Unknown(MemberId),
    /// The member is in a state that the command does not fit.
    #[error("member {id} is {state}, so it cannot be {verb}")]
    State {
        /// Which member.
        id: MemberId,
        /// Its state.
        state: State,
        /// What was to be done.
        verb: String,
    },
    /// Another member is reached at that address.
    #[error(
        "address {address} belongs to member {id} ({state}): when that one is lost, remove it first (narthex tools ring remove {id})"
    )]
    AddressTaken {
        /// The address.
        address: String,
        /// Whose it is.
        id: MemberId,
        /// That one's state.
        state: State,
    },
    /// Too few active members would remain.
    #[error(
        "{remaining} active members would remain for replication factor {factor}: let another join first, or lower the factor"
    )]
    TooFewActive {
        /// Members that would remain active.
        remaining: usize,
        /// Copies of each series.
        factor: u32,
    },
    /// The last active member cannot leave.
    #[error("member {0} is the last active one: nobody would take writes")]
    LastActive(MemberId),
    /// The replication factor is out of range.
    #[error("replication factor {0} is not between 1 and {REPLICATION_FACTOR_MAX}")]
    ReplicationFactor(u32),
    /// Fewer active members than copies.
    #[error("replication factor {factor} needs {factor} active members, there are {active}")]
    FactorAboveActive {
        /// The factor asked for.
        factor: u32,
        /// Members that are active.
        active: usize,
    },
    /// The description of a member makes no sense.
    #[error("{0}")]
    Member(#[from] MemberError),
    /// Not a tenant id.
    #[error("{0}")]
    Tenant(String),
    /// More of something than the document may hold.
    #[error("the ring document holds at most {max} {what}")]
    Full {
        /// What there is too much of.
        what: String,
        /// How many there may be.
        max: usize,
    },
    /// Bytes that are no document, or one whose parts contradict each other.
    #[error("not a ring document: {0}")]
    Malformed(String),
}

impl From<TenantError> for DocumentError {
    fn from(error: TenantError) -> Self {
        DocumentError::Tenant(error.to_string())
    }
}

impl Default for Document {
    fn default() -> Self {
        Self {
            epoch: 0,
            replication_factor: 1,
            thin: None,
            members: Vec::new(),
            limits: Limits::default(),
            tenants: BTreeMap::new(),
        }
    }
}

impl Document {
    /// The member with this id.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members
            .binary_search_by_key(&id, |member| member.id)
            .ok()
            .map(|index| &self.members[index])
    }

    /// The member that a person means by `text`: its id, or the address of one that is not gone.
    pub fn find(&self, text: &str) -> Option<&Member> {
        let by_id = text.parse().ok().and_then(|id| self.member(id));
        by_id.or_else(|| self.present().find(|member| member.address == text))
    }

    /// Members that own series, ascending by id.
    pub fn active(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.iter().filter(|member| member.state == State::Active)
    }

    /// Members that may hold samples and are asked by readers: all but those that are gone.
    pub fn present(&self) -> impl Iterator<Item = &Member> + Clone {
        self.members.iter().filter(|member| member.state != State::Gone)
    }

    /// What `tenant` may use: its own limits, and for what they leave open those of all.
    pub fn limits_of(&self, tenant: &Tenant) -> Limits {
        self.tenants
            .get(tenant.as_str())
            .copied()
            .unwrap_or_default()
            .or(self.limits)
    }

    /// The document after `command`, with the next epoch; the same document when the command changes nothing.
    pub fn apply(&self, command: &Command) -> Result<Document, DocumentError> {
        if self.epoch == 0 && !matches!(command, Command::Found { .. }) {
            return Err(DocumentError::NotFounded);
        }
        let mut next = self.clone();
        next.epoch = self.epoch.saturating_add(1);
        match command {
            Command::Found {
                member,
                replication_factor,
            } => next.found(member, *replication_factor)?,
            Command::Join { member } => next.join(member)?,
            Command::Activate { id } => next.activate(*id)?,
            Command::Drain { id } => next.drain(*id)?,
            Command::Remove { id, force, lost_ms } => next.remove(*id, *force, *lost_ms)?,
            Command::SetWeight { id, weight } => next.set_weight(*id, *weight)?,
            Command::SetReplicationFactor {
                replication_factor,
                at_ms,
            } => next.set_replication_factor(*replication_factor, *at_ms)?,
            Command::SetLimits { limits } => next.limits = *limits,
            Command::SetTenant { tenant, limits } => next.set_tenant(tenant, *limits)?,
        }
        debug_assert_eq!(next.check(), Ok(()), "{command:?} broke the document");
        if (Document {
            epoch: self.epoch,
            ..next.clone()
        }) == *self
        {
            return Ok(self.clone());
        }
        Ok(next)
    }

    fn found(&mut self, newcomer: &Newcomer, replication_factor: u32) -> Result<(), DocumentError> {
        if self.epoch > 1 {
            return Err(DocumentError::Founded(self.epoch - 1));
        }
        check_factor(replication_factor)?;
        self.replication_factor = replication_factor;
        self.join(newcomer)?;
        self.set_state(newcomer.id, State::Active);
        Ok(())
    }

    fn join(&mut self, newcomer: &Newcomer) -> Result<(), DocumentError> {
        let &Newcomer {
            id,
            ref address,
            ref zone,
            weight,
        } = newcomer;
        check_address(address)?;
        check_zone(zone)?;
        check_weight(weight)?;
        if let Some(other) = self.present().find(|other| other.id != id && other.address == *address) {
            return Err(DocumentError::AddressTaken {
                address: address.clone(),
                id: other.id,
                state: other.state,
            });
        }
        match self.members.binary_search_by_key(&id, |member| member.id) {
            Ok(index) if self.members[index].state != State::Gone => {
                let member = &mut self.members[index];
                member.address.clone_from(address);
                member.zone.clone_from(zone);
                return Ok(());
            }
            Ok(index) => drop(self.members.remove(index)),
            Err(_) if MemberId::new(id.get()).is_none() => return Err(MemberError::Id(id.to_string()).into()),
            Err(_) => {}
        }
        if self.present().count() >= MEMBERS_MAX {
            return Err(DocumentError::Full {
                what: "members".into(),
                max: MEMBERS_MAX,
            });
        }
        let index = self.members.partition_point(|member| member.id < id);
        let (address, zone) = (address.clone(), zone.clone());
        self.members.insert(
            index,
            Member {
                id,
                address,
                zone,
                weight,
                state: State::Joining,
                since_epoch: self.epoch,
            },
        );
        Ok(())
    }

    fn activate(&mut self, id: MemberId) -> Result<(), DocumentError> {
        match self.state_of(id)? {
            State::Gone => Err(DocumentError::State {
                id,
                state: State::Gone,
                verb: "activated".into(),
            }),
            State::Joining | State::Active | State::Leaving => {
                self.set_state(id, State::Active);
                Ok(())
            }
        }
    }

    fn drain(&mut self, id: MemberId) -> Result<(), DocumentError> {
        match self.state_of(id)? {
            State::Gone => {
                return Err(DocumentError::State {
                    id,
                    state: State::Gone,
                    verb: "drained".into(),
                });
            }
            State::Active => self.check_can_spare(id, false)?,
            State::Joining | State::Leaving => {}
        }
        self.set_state(id, State::Leaving);
        Ok(())
    }

    fn remove(&mut self, id: MemberId, force: bool, lost_ms: Option<i64>) -> Result<(), DocumentError> {
        let state = self.state_of(id)?;
        if state == State::Active {
            self.check_can_spare(id, force)?;
        }
        if let (Some(lost_ms), State::Active | State::Leaving) = (lost_ms, state) {
            let spare = self.thin.map_or(spare_of(self.replication_factor), |thin| thin.spare);
            self.thin_out(lost_ms, spare.saturating_sub(1));
        }
        self.set_state(id, State::Gone);
        let gone = self.members.iter().filter(|member| member.state == State::Gone);
        if gone.clone().count() > GONE_MAX
            && let Some(first) = gone
                .min_by_key(|member| (member.since_epoch, member.id))
                .map(|member| member.id)
        {
            self.members.retain(|member| member.id != first);
        }
        Ok(())
    }

    /// Whether the active member `id` can stop to own series.
    fn check_can_spare(&self, id: MemberId, force: bool) -> Result<(), DocumentError> {
        let remaining = self.active().count().saturating_sub(1);
        if remaining == 0 {
            return Err(DocumentError::LastActive(id));
        }
        if remaining < self.replication_factor as usize && !force {
            return Err(DocumentError::TooFewActive {
                remaining,
                factor: self.replication_factor,
            });
        }
        Ok(())
    }

    fn set_weight(&mut self, id: MemberId, weight: u32) -> Result<(), DocumentError> {
        check_weight(weight)?;
        let state = self.state_of(id)?;
        if state == State::Gone {
            return Err(DocumentError::State {
                id,
                state,
                verb: "given a weight".into(),
            });
        }
        for member in self.members.iter_mut().filter(|member| member.id == id) {
            member.weight = weight;
        }
        Ok(())
    }

    fn set_replication_factor(&mut self, factor: u32, at_ms: i64) -> Result<(), DocumentError> {
        check_factor(factor)?;
        let active = self.active().count();
        if factor > self.replication_factor && factor as usize > active {
            return Err(DocumentError::FactorAboveActive { factor, active });
        }
        if spare_of(factor) > spare_of(self.replication_factor) {
            self.thin_out(at_ms, spare_of(self.replication_factor));
        }
        self.replication_factor = factor;
        Ok(())
    }

    /// From now on only `spare` members may fail for what was written before `until_ms`, or fewer, as it was already.
    fn thin_out(&mut self, until_ms: i64, spare: u32) {
        let until_ms = until_ms.saturating_add(AHEAD_MS);
        let before = self.thin.unwrap_or(Thin { until_ms, spare });
        self.thin = Some(Thin {
            until_ms: before.until_ms.max(until_ms),
            spare: before.spare.min(spare),
        });
    }

    /// Members that may fail while another has every sample since `oldest_ms`: all copies but those of a quorum. None while
    /// there are fewer members than copies, since each may be the only one that has a sample.
    pub fn spare_since(&self, oldest_ms: i64) -> u32 {
        if self.present().count() < self.replication_factor as usize {
            return 0;
        }
        let spare = spare_of(self.replication_factor);
        match self.thin {
            Some(thin) if oldest_ms < thin.until_ms => spare.min(thin.spare),
            _ => spare,
        }
    }

    fn set_tenant(&mut self, tenant: &str, limits: Limits) -> Result<(), DocumentError> {
        Tenant::new(tenant)?;
        if limits.is_empty() {
            self.tenants.remove(tenant);
            return Ok(());
        }
        if self.tenants.len() >= TENANTS_MAX && !self.tenants.contains_key(tenant) {
            return Err(DocumentError::Full {
                what: "tenants with limits of their own".into(),
                max: TENANTS_MAX,
            });
        }
        self.tenants.insert(tenant.to_owned(), limits);
        Ok(())
    }

    fn state_of(&self, id: MemberId) -> Result<State, DocumentError> {
        self.member(id)
            .map(|member| member.state)
            .ok_or(DocumentError::Unknown(id))
    }

    /// Brings a member into `state`; asking for the state that it is in changes nothing.
    fn set_state(&mut self, id: MemberId, state: State) {
        for member in self
            .members
            .iter_mut()
            .filter(|member| member.id == id && member.state != state)
        {
            member.state = state;
            member.since_epoch = self.epoch;
        }
    }

    /// What always holds: ids ascending and distinct, addresses of present members distinct, every field and every count in its bounds.
    pub fn check(&self) -> Result<(), DocumentError> {
        let malformed = |what: String| Err(DocumentError::Malformed(what));
        check_factor(self.replication_factor)?;
        let mut addresses = HashSet::new();
        for member in &self.members {
            member.check()?;
            if member.state != State::Gone && !addresses.insert(member.address.as_str()) {
                return malformed(format!("two members at address {}", member.address));
            }
        }
        if let Some(pair) = self.members.windows(2).find(|pair| pair[0].id >= pair[1].id) {
            return malformed(format!("member {} stands behind member {}", pair[1].id, pair[0].id));
        }
        if addresses.len() > MEMBERS_MAX || self.members.len() - addresses.len() > GONE_MAX {
            return Err(DocumentError::Full {
                what: "members".into(),
                max: MEMBERS_MAX,
            });
        }
        if self.tenants.len() > TENANTS_MAX {
            return Err(DocumentError::Full {
                what: "tenants with limits of their own".into(),
                max: TENANTS_MAX,
            });
        }
        self.tenants
            .keys()
            .try_for_each(|tenant| Tenant::new(tenant).map(drop))
            .map_err(DocumentError::from)
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a document has only text keys and plain values")
    }

    /// Reads a document from JSON and checks it.
    pub fn from_json(bytes: &[u8]) -> Result<Document, DocumentError> {
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::Malformed(format!(
                "{} bytes, at most {DOCUMENT_BYTES_MAX} are read",
                bytes.len()
            )));
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| DocumentError::Malformed(error.to_string()))?;
        document.check()?;
        Ok(document)
    }
}

/// Copies that a quorum leaves out.
fn spare_of(factor: u32) -> u32 {
    factor - (factor / 2 + 1)
}

fn check_factor(factor: u32) -> Result<(), DocumentError> {
    let good = (1..=REPLICATION_FACTOR_MAX).contains(&factor);
    if good {
        Ok(())
    } else {
        Err(DocumentError::ReplicationFactor(factor))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
