//! openraft's own examination of a store, and what survives opening again.

use super::*;
use crate::{
    document::Newcomer,
    testing::{TestRng, TestSpawn},
};
use openraft::testing::{StoreBuilder, Suite};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, DocumentStore, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, DocumentStore), StorageError<MemberId>> {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
        Ok((dir, opened.log, opened.documents))
    }
}

#[test]
fn openraft_is_content_with_the_store() {
    Suite::test_all(Builder).unwrap();
}

fn log_id(index: u64) -> LogId<MemberId> {
    LogId::new(CommittedLeaderId::new(1, MemberId::new(1).unwrap()), index)
}

fn found() -> Entry<TypeConfig> {
    let member = Newcomer {
        id: MemberId::new(1).unwrap(),
        address: "a:1".into(),
        zone: "z".into(),
        weight: 100,
    };
    let command = Command::Found {
        member,
        replication_factor: 3,
    };
    Entry {
        log_id: log_id(1),
        payload: EntryPayload::Normal(command),
    }
}

#[tokio::test]
async fn identity_document_and_snapshot_survive_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
    let id = opened.id;
    assert_eq!(opened.documents.apply([found()]).await.unwrap(), [Ok(1)]);
    let snapshot = opened
        .documents
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .unwrap();
    opened.log.purge(log_id(1)).await.unwrap();
    drop(opened);

    let mut opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(2)).await.unwrap();
    assert_eq!(opened.id, id, "the id is drawn once");
    assert_eq!(opened.published.borrow().replication_factor, 3);
    assert_eq!(opened.documents.applied_state().await.unwrap().0, Some(log_id(1)));
    assert_eq!(
        opened.documents.get_current_snapshot().await.unwrap().unwrap().meta,
        snapshot.meta
    );
    assert_eq!(opened.log.get_log_state().await.unwrap().last_log_id, Some(log_id(1)));
}

#[tokio::test]
async fn a_command_that_does_not_fit_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
    let again = Entry {
        log_id: log_id(2),
        ..found()
    };
    let answers = opened.documents.apply([found(), again]).await.unwrap();
    assert_eq!(answers, [Ok(1), Err(DocumentError::Founded(1))]);
    assert_eq!(opened.published.borrow().epoch, 1);
    assert_eq!(opened.documents.applied_state().await.unwrap().0, Some(log_id(2)));
}

#[tokio::test]
async fn a_large_document_is_stored_in_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
    let mut entries = vec![found()];
    for index in 2..3000 {
        let limits = crate::limits::Limits {
            active_series_max: Some(index),
            ..Default::default()
        };
        let command = Command::SetTenant {
            tenant: format!("{index}{}", "x".repeat(140)),
            limits,
        };
        entries.push(Entry {
            log_id: log_id(index),
            payload: EntryPayload::Normal(command),
        });
    }
    opened.documents.apply(entries).await.unwrap();
    let document = Arc::clone(&opened.published.borrow());
    assert!(document.to_json().len() > 3 * VALUE_BYTES_MAX);
    drop(opened);
    let mut opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
    assert_eq!(*opened.published.borrow(), document);
    // A smaller document leaves nothing of the larger one behind.
    let small = Document {
        tenants: Default::default(),
        ..(*document).clone()
    };
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(5000)),
        ..SnapshotMeta::default()
    };
    opened
        .documents
        .install_snapshot(&meta, Box::new(Cursor::new(small.to_json())))
        .await
        .unwrap();
    drop(opened);
    let opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
    assert_eq!(**opened.published.borrow(), small);
}

#[tokio::test]
async fn a_snapshot_that_is_no_document_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap();
    opened.documents.apply([found()]).await.unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(9)),
        ..SnapshotMeta::default()
    };
    let error = opened
        .documents
        .install_snapshot(&meta, Box::new(Cursor::new(b"{}".to_vec())))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not a ring document"), "{error}");
    assert_eq!(opened.published.borrow().epoch, 1);
}

#[tokio::test]
async fn only_a_member_of_a_ring_can_be_made_the_sole_voter() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        make_sole_voter(dir.path(), &TestSpawn)
            .await
            .unwrap_err()
            .to_string()
            .contains("never a member")
    );
    drop(open(dir.path(), Arc::new(TestSpawn), &TestRng::new(1)).await.unwrap());
    assert!(
        make_sole_voter(dir.path(), &TestSpawn)
            .await
            .unwrap_err()
            .to_string()
            .contains("never belonged to a ring")
    );
}
