//! `info()`: series enriched with labels of info series that share their `instance` and `job`.

use crate::{
    operator::{
        Evaluator, Scratch,
        column::{Cells, Column, Matrix, join_same_labels},
        metric_name,
    },
    plan::{Grid, Info, Shift},
    query::QueryError,
};
use hashbrown::{HashMap, HashSet};
use model::{
    label::{Labels, METRIC_NAME},
    matcher::Matcher,
    sample::is_stale,
    time::Timestamp,
};
use std::collections::BTreeMap;

/// The labels by which a series finds its info series.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// An info series: its labels, and for each step the time of the sample that is valid then.
struct InfoSeries {
    labels: Labels,
    times: Vec<Option<Timestamp>>,
}

/// Info series by their name and identifying labels.
type Register<'a> = BTreeMap<Labels, BTreeMap<&'a str, Vec<&'a InfoSeries>>>;

impl Evaluator<'_> {
    pub(super) fn info(&mut self, info: &Info, grid: Grid) -> Result<Matrix, QueryError> {
        let base = self.vector(&info.base, grid)?;
        let is_info = |labels: &Labels| info.names.iter().all(|matcher| matcher.matches(metric_name(labels)));
        let infos = self.info_series(info, &base, is_info, grid)?;
        let mut register: Register<'_> = BTreeMap::new();
        for series in &infos {
            let named = register.entry(identity(&series.labels)).or_default();
            named.entry(metric_name(&series.labels)).or_default().push(series);
        }
        let current = Current::new(&register, grid)?;
        let mut columns = Vec::with_capacity(base.columns.len());
        for column in &base.columns {
            self.shared.cancel.check()?;
            if is_info(&column.labels) {
                columns.push(column.clone());
                continue;
            }
            enrich(column, info, &current, &mut columns)?;
        }
        drop(base);
        self.matrix(join_same_labels(columns)?)
    }

    /// The info series that some base series may want.
    fn info_series(
        &mut self,
        info: &Info,
        base: &Matrix,
        is_info: impl Fn(&Labels) -> bool,
        grid: Grid,
    ) -> Result<Vec<InfoSeries>, QueryError> {
        let mut wanted: [HashSet<String>; 2] = Default::default();
        for column in base.columns.iter().filter(|column| !is_info(&column.labels)) {
            for (name, values) in IDENTIFYING.iter().zip(&mut wanted) {
                if let Some(value) = column.labels.get(name) {
                    values.insert(value.to_owned());
                }
            }
        }
        if wanted.iter().all(HashSet::is_empty) {
            return Ok(Vec::new());
        }
        let is_wanted = |labels: &Labels| {
            IDENTIFYING
                .iter()
                .zip(&wanted)
                .all(|(name, values)| values.is_empty() || values.contains(labels.get(name).unwrap_or("")))
        };
        let selected = &self.shared.selected[info.selection];
        let shifts = &info.shifts;
        let found = self.each(&selected.series, |shared, series, scratch: &mut Scratch| {
            if !is_wanted(&series.labels) {
                return Ok(None);
            }
            shared.read(selected, series, &mut scratch.buffer)?;
            let times = valid_times(&scratch.buffer, shifts, grid, shared.settings.lookback_ms)?;
            let valid = times.iter().any(Option::is_some);
            Ok(valid.then(|| InfoSeries {
                labels: series.labels.clone(),
                times,
            }))
        })?;
        Ok(found.into_iter().flatten().collect())
    }
}

/// For each step, the time of the last sample of an info series, unless it is too old or stale.
fn valid_times(
    buffer: &model::sample::SampleBuffer,
    shifts: &[Shift],
    grid: Grid,
    lookback_ms: i64,
) -> Result<Vec<Option<Timestamp>>, QueryError> {
    let mut times = Vec::with_capacity(grid.count);
    for step in 0..grid.count {
        let at = shifts.iter().fold(grid.at(step), |at, shift| shift.apply(at));
        let oldest = at.saturating_sub(lookback_ms);
        let float = buffer.timestamps.partition_point(|&time| time <= at).checked_sub(1);
        let float = float.map(|index| (buffer.timestamps[index], is_stale(buffer.values[index]), false));
        let histogram = buffer
            .histograms
            .partition_point(|sample| sample.at <= at)
            .checked_sub(1);
        let histogram = histogram.map(|index| &buffer.histograms[index]);
        let histogram = histogram.map(|sample| (sample.at, is_stale(sample.histogram.sum), true));
        let last = float.max(histogram).filter(|&(time, stale, _)| time > oldest && !stale);
        if last.is_some_and(|(_, _, is_histogram)| is_histogram) {
            return Err(QueryError::Execution("info sample should be float".into()));
        }
        times.push(last.map(|(time, ..)| time));
    }
    Ok(times)
}

/// The identifying labels of a series.
fn identity(labels: &Labels) -> Labels {
    labels.filtered(|name| IDENTIFYING.contains(&name))
}

/// For each identity, and info metric in the order of names, the info series that is valid at each step.
struct Current<'a> {
    by_identity: HashMap<Labels, Vec<Vec<Option<&'a InfoSeries>>>, foldhash::fast::RandomState>,
}

impl<'a> Current<'a> {
    /// Of several valid series the one with the newest sample counts; two newest ones contradict each other.
    fn new(register: &Register<'a>, grid: Grid) -> Result<Self, QueryError> {
        let mut by_identity: HashMap<Labels, Vec<_>, foldhash::fast::RandomState> = HashMap::default();
        for (identity, metrics) in register {
            let valid = |series: &Vec<&'a InfoSeries>| (0..grid.count).map(|step| newest(series, step)).collect();
            let metrics = metrics.values().map(valid).collect::<Result<Vec<_>, QueryError>>()?;
            by_identity.insert(identity.clone(), metrics);
        }
        Ok(Self { by_identity })
    }
}

fn newest<'a>(series: &[&'a InfoSeries], step: usize) -> Result<Option<&'a InfoSeries>, QueryError> {
    let mut newest: Option<(&'a InfoSeries, Timestamp)> = None;
    for &candidate in series {
        let Some(time) = candidate.times[step] else { continue };
        match newest {
            Some((known, known_time)) if known_time == time => {
                let text = format!(
                    "found duplicate series for info metric: existing {} @ {known_time}, new {} @ {time}",
                    known.labels, candidate.labels
                );
                return Err(QueryError::Execution(text));
            }
            Some((_, known_time)) if known_time > time => {}
            _ => newest = Some((candidate, time)),
        }
    }
    Ok(newest.map(|(series, _)| series))
}

/// Adds the column under the labels that its info series give it, in parts when they change.
fn enrich(column: &Column, info: &Info, current: &Current<'_>, columns: &mut Vec<Column>) -> Result<(), QueryError> {
    let metrics = current
        .by_identity
        .get(&identity(&column.labels))
        .map_or(&[][..], Vec::as_slice);
    let needs_match = info.data.iter().any(|matcher| !matcher.matches_empty());
    let mut parts: Vec<(Vec<*const InfoSeries>, Option<Labels>, Cells)> = Vec::new();
    let mut last = usize::MAX;
    for (step, cell) in column.cells.iter() {
        let valid: Vec<&InfoSeries> = metrics.iter().filter_map(|steps| steps[step]).collect();
        let key: Vec<*const InfoSeries> = valid.iter().map(|&series| std::ptr::from_ref(series)).collect();
        if parts.get(last).is_none_or(|(known, ..)| *known != key) {
            last = match parts.iter().position(|(known, ..)| *known == key) {
                Some(place) => place,
                None => {
                    let labels = if valid.is_empty() && needs_match {
                        None
                    } else {
                        Some(enriched(&column.labels, &valid, &info.data)?)
                    };
                    parts.push((key, labels, Cells::default()));
                    parts.len() - 1
                }
            };
        }
        if let (Some(point), (_, Some(_), cells)) = (cell.to_point(), &mut parts[last]) {
            cells.push(step, point);
        }
    }
    columns.extend(parts.into_iter().filter_map(|(_, labels, cells)| {
        labels.filter(|_| !cells.is_empty()).map(|labels| Column {
            labels,
            drop_name: column.drop_name,
            cells,
        })
    }));
    Ok(())
}

/// `base` with the labels that info series add to it, none of its own changed.
fn enriched(base: &Labels, infos: &[&InfoSeries], data: &[Matcher]) -> Result<Labels, QueryError> {
    let mut added: Vec<(&str, &str)> = Vec::new();
    for (name, value) in infos.iter().flat_map(|series| series.labels.iter()) {
        let asked_for = data.is_empty() || data.iter().any(|matcher| &*matcher.name == name);
        if name == METRIC_NAME || !asked_for || base.get(name).is_some() {
            continue;
        }
        match added.iter().find(|(known, _)| *known == name) {
            Some((_, known)) if *known != value => {
                return Err(QueryError::Execution(format!("conflicting label: {name}")));
            }
            Some(_) => {}
            None => added.push((name, value)),
        }
    }
    if added.is_empty() {
        return Ok(base.clone());
    }
    Labels::new(base.iter().chain(added)).map_err(|error| QueryError::Internal(error.to_string()))
}
