//! Members of two versions in one ring, while it is rolled: one that knows nothing of [`Thin`], as the first version did not, beside one
//! that does. Both read what the other writes, agree on everything else and count the same epochs.

use super::{tests::any_command, *};
use proptest::prelude::*;

/// The document as the first version knew it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct FirstDocument {
    epoch: u64,
    replication_factor: u32,
    members: Vec<Member>,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    limits: Limits,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    tenants: BTreeMap<String, Limits>,
}

/// The commands that have more in them now, as the first version knew them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
enum FirstCommand {
    Remove {
        id: MemberId,
        #[serde(default)]
        force: bool,
    },
    SetReplicationFactor {
        replication_factor: u32,
    },
}

/// A member of the first version. It applies commands by the rules of today, and forgets each time what it has no place for.
struct FirstMember(Document);

impl FirstMember {
    /// Reads a command as it was agreed on, and applies it as far as it understands it.
    fn apply(&mut self, agreed: &[u8]) -> Result<(), DocumentError> {
        let understood = match serde_json::from_slice::<FirstCommand>(agreed) {
            Ok(command) => serde_json::to_vec(&command).unwrap(),
            Err(_) => agreed.to_vec(),
        };
        let command: Command =
            serde_json::from_slice(&understood).expect("this version reads what the first one wrote");
        let next = self.0.apply(&command)?;
        self.0 = Document::from_json(&first_writes(&next.to_json())).unwrap();
        Ok(())
    }
}

/// What the first version writes of a document that it has read.
fn first_writes(document: &[u8]) -> Vec<u8> {
    let known: FirstDocument =
        serde_json::from_slice(document).expect("the first version passes over what it does not know");
    serde_json::to_vec(&known).unwrap()
}

const DAY_MS: i64 = 86_400_000;

/// Any command, with the times that the first version does not know.
fn any_timed() -> impl Strategy<Value = Command> {
    (any_command(), proptest::option::of(0..9 * DAY_MS)).prop_map(|(command, at)| match command {
        Command::Remove { id, force, .. } => Command::Remove { id, force, lost_ms: at },
        Command::SetReplicationFactor { replication_factor, .. } => Command::SetReplicationFactor {
            replication_factor,
            at_ms: at.unwrap_or(0),
        },
        other => other,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever is agreed on, both have the same members, states, factor, limits and epoch, and refuse the same. Only the newer one knows
    /// of older samples with fewer copies, and it alone is more careful.
    #[test]
    fn both_versions_place_series_alike(commands in prop::collection::vec(any_timed(), 1..60), oldest in 0..9 * DAY_MS) {
        let (mut newer, mut first) = (Document::default(), FirstMember(Document::default()));
        for command in &commands {
            let agreed = serde_json::to_vec(command).unwrap();
            let next = newer.apply(command);
            prop_assert_eq!(next.as_ref().map(drop).map_err(Clone::clone), first.apply(&agreed));
            newer = next.unwrap_or(newer);
            let without = Document { thin: None, ..newer.clone() };
            prop_assert_eq!(&first.0, &without);
            prop_assert!(newer.spare_since(oldest) <= first.0.spare_since(oldest));
        }
    }

    /// A newer member that takes the document over from one of the first version, as a snapshot or because it was started new, goes on
    /// with it and counts on from there.
    #[test]
    fn a_document_of_the_first_version_is_gone_on_with(commands in prop::collection::vec(any_timed(), 1..60), place in 0..60_usize) {
        let (mut newer, mut taken_over) = (Document::default(), Document::default());
        for (index, command) in commands.iter().enumerate() {
            newer = newer.apply(command).unwrap_or(newer);
            taken_over = taken_over.apply(command).unwrap_or(taken_over);
            if index == place {
                taken_over = Document::from_json(&first_writes(&newer.to_json())).unwrap();
                prop_assert_eq!(taken_over.thin, None);
            }
            prop_assert_eq!(&Document { thin: None, ..newer.clone() }, &Document { thin: None, ..taken_over.clone() });
        }
    }
}
