use super::{super::message::SeriesResult, *};
use model::{
    sample::SampleBuffer,
    select::{BLOCK_ID, Chunk, LabelList, Samples},
};

/// A bucket of two blocks without a series.
struct TwoBlocks;

struct NoSeries(Vec<String>);

impl SeriesSet for NoSeries {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        Box::pin(async { None })
    }

    fn warnings(&self) -> Vec<String> {
        vec!["one".to_owned()]
    }

    fn blocks(&self) -> Vec<String> {
        self.0.clone()
    }
}

impl Select for TwoBlocks {
    fn select(&self, request: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        let mut blocks = vec!["01A".to_owned(), "01B".to_owned()];
        let matches = |block: &String| {
            let mut matchers = request.blocks.iter();
            matchers.all(|matcher| &*matcher.name == BLOCK_ID && matcher.matches(block))
        };
        blocks.retain(matches);
        Box::pin(async { Ok(Box::new(NoSeries(blocks)) as Box<dyn SeriesSet>) })
    }

    fn label_names(&self, _: Vec<Matcher>, _: TimeRange, _: usize) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }

    fn label_values(
        &self,
        _: String,
        _: Vec<Matcher>,
        _: TimeRange,
        _: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }
}

impl SelectTenants for TwoBlocks {
    fn tenant(&self, _tenant: &Tenant) -> Arc<dyn Select> {
        Arc::new(TwoBlocks)
    }

    fn tenants(&self) -> Vec<Tenant> {
        Vec::new()
    }
}

fn matcher(name: &str, value: &str) -> wire::LabelMatcher {
    wire::LabelMatcher {
        kind: wire::MatcherType::Equal as i32,
        name: name.to_owned(),
        value: value.to_owned(),
    }
}

/// The frames of an answer to a question with these hints.
async fn frames(hints: Option<wire::Any>) -> Result<Vec<SeriesResult>, Status> {
    let service = StoreService::new(Arc::new(TwoBlocks), || None, |_| Ok(Vec::new()));
    let request = wire::SeriesRequest {
        matchers: vec![matcher("job", "x")],
        max_time: 1,
        hints,
        ..wire::SeriesRequest::default()
    };
    let mut answer = answer_series(service, Request::new(request)).await?;
    let mut frames = Vec::new();
    while let Some(frame) = answer.next().await {
        frames.extend(frame?.result);
    }
    Ok(frames)
}

fn request_hints(value: Vec<u8>) -> wire::Any {
    wire::Any {
        type_url: "type.googleapis.com/hintspb.SeriesRequestHints".to_owned(),
        value: value.into(),
    }
}

fn blocks_of(frame: Option<&SeriesResult>) -> Vec<String> {
    let Some(SeriesResult::Hints(hints)) = frame else {
        panic!("no hints but {frame:?}");
    };
    assert_eq!(hints.type_url, wire::RESPONSE_HINTS);
    let told = wire::SeriesResponseHints::decode(hints.value.clone()).unwrap();
    told.queried_blocks.into_iter().map(|block| block.id).collect()
}

#[tokio::test]
async fn who_gives_hints_chooses_blocks_and_learns_of_them() {
    assert_eq!(
        frames(None).await.unwrap(),
        [SeriesResult::Warning("one".to_owned())],
        "who gives none gets none"
    );
    let all = frames(Some(request_hints(Vec::new()))).await.unwrap();
    assert_eq!(blocks_of(all.last()), ["01A", "01B"]);
    assert_eq!(all.len(), 2);
    let one = wire::SeriesRequestHints {
        block_matchers: vec![matcher(BLOCK_ID, "01B")],
    };
    let one = frames(Some(request_hints(one.encode_to_vec()))).await.unwrap();
    assert_eq!(blocks_of(one.last()), ["01B"]);
}

#[tokio::test]
async fn hints_of_another_kind_are_passed_over_and_broken_ones_refused() {
    let other = wire::Any {
        type_url: "type.googleapis.com/hintspb.OfTheFuture".to_owned(),
        value: vec![0xff].into(),
    };
    assert_eq!(frames(Some(other)).await.unwrap().len(), 1);
    let broken = frames(Some(request_hints(vec![0xff]))).await.unwrap_err();
    assert_eq!(broken.code(), tonic::Code::InvalidArgument, "{broken}");
}

/// A source without end, whose series have a label of this name and chunks of 64 MiB.
struct Endless(&'static str);

struct Large;

impl Samples for Large {
    fn read(&self, _: TimeRange, _: &mut SampleBuffer) -> Result<(), SelectError> {
        Ok(())
    }

    fn chunks(&self) -> Result<Vec<Chunk>, SelectError> {
        Ok(vec![Chunk {
            min_time: 0,
            max_time: 1,
            encoding: 1,
            data: b"bits"[..].into(),
        }])
    }

    fn held_bytes(&self) -> usize {
        64 << 20
    }
}

impl SeriesSet for Endless {
    fn next(&mut self) -> BoxFuture<'_, Option<Result<Vec<Series>, SelectError>>> {
        let series = Series {
            labels: Labels::new([(self.0, "x")]).unwrap(),
            samples: Box::new(Large),
        };
        Box::pin(async { Some(Ok(vec![series])) })
    }

    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Select for Endless {
    fn select(&self, _: SelectRequest) -> BoxFuture<'_, Result<Box<dyn SeriesSet>, SelectError>> {
        Box::pin(async { Ok(Box::new(Endless(self.0)) as Box<dyn SeriesSet>) })
    }

    fn label_names(&self, _: Vec<Matcher>, _: TimeRange, _: usize) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(vec![self.0.to_owned()].into()) })
    }

    fn label_values(
        &self,
        _: String,
        _: Vec<Matcher>,
        _: TimeRange,
        _: usize,
    ) -> BoxFuture<'_, Result<LabelList, SelectError>> {
        Box::pin(async { Ok(LabelList::default()) })
    }
}

impl SelectTenants for Endless {
    fn tenant(&self, _tenant: &Tenant) -> Arc<dyn Select> {
        Arc::new(Endless(self.0))
    }

    fn tenants(&self) -> Vec<Tenant> {
        Vec::new()
    }
}

#[tokio::test]
async fn only_labels_that_series_carry_make_an_answer_be_gathered_and_not_without_end() {
    let ask = async |name: &'static str| {
        let service = StoreService::new(Arc::new(Endless(name)), || None, |_| Ok(Vec::new()));
        let request = wire::SeriesRequest {
            matchers: vec![matcher("job", "x")],
            max_time: 1,
            without_replica_labels: vec!["replica".to_owned()],
            ..wire::SeriesRequest::default()
        };
        answer_series(service, Request::new(request)).await
    };
    let mut answer = ask("job").await.unwrap();
    assert!(answer.next().await.unwrap().is_ok(), "it comes as it is read");
    let refusal = ask("replica").await.err().unwrap();
    assert_eq!(refusal.code(), tonic::Code::ResourceExhausted);
    assert!(refusal.message().contains("without replica"), "{refusal}");
}
