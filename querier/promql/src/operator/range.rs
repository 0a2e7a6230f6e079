//! Range functions: each step looks at a window of samples, selected or evaluated by a subquery.

use crate::{
    annotation::{Annotations, Note},
    ast::{Extension, Function, Span, ValueType},
    function::{
        change, extended, extent, over_time, rate, regression,
        window::{Notes, Samples, Window},
    },
    operator::{
        Evaluator, Scratch, Selected, Shared,
        column::{Cell, Cells, Column, Matrix, histogram_samples},
        forget_stale, metric_name,
        scalar::Scalars,
        sweep::{self, Ask, Fold, Sweep},
        uncharged,
    },
    plan::{self, Call, Grid, Kind, Node, Shift, Subquery},
    query::QueryError,
    value::Point,
};
use model::{
    histogram::{Histogram, ResetHint},
    label::Labels,
    sample::{HistogramSample, SampleBuffer},
    select::Series,
    time::Timestamp,
};
use std::sync::Arc;

/// Samples that windows of one series may look at before it is asked again whether anybody still waits.
const UNCHECKED_SAMPLES_MAX: usize = 1 << 20;

/// What a function makes of a window.
type Kernel = fn(&Window<'_>, &mut Notes<'_>) -> Option<Point>;

/// Where windows come from.
pub(super) enum Source<'a> {
    /// A selector.
    Selected(&'a Selected),
    /// A subquery, with the steps at which it was evaluated.
    Evaluated(Matrix, Grid),
}

/// How windows lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) shift: Shift,
    pub(super) range_ms: i64,
    pub(super) extension: Option<Extension>,
    /// Where the query speaks of the windows.
    pub(super) span: Span,
}

/// A series of a source.
pub(super) enum Item<'a> {
    Selected(&'a Selected, &'a Series),
    Evaluated(&'a Column, Grid),
}

impl Item<'_> {
    pub(super) fn labels(&self) -> &Labels {
        match self {
            Item::Selected(_, series) => &series.labels,
            Item::Evaluated(column, _) => &column.labels,
        }
    }

    pub(super) fn drop_name(&self) -> bool {
        match self {
            Item::Selected(..) => false,
            Item::Evaluated(column, _) => column.drop_name,
        }
    }

    /// Fills the buffer with the samples, without stale markers.
    pub(super) fn read(&self, shared: &Shared<'_>, buffer: &mut SampleBuffer) -> Result<(), QueryError> {
        match self {
            Item::Selected(selected, series) => {
                if shared.read(selected, series, buffer)? {
                    forget_stale(buffer);
                }
            }
            Item::Evaluated(column, grid) => {
                buffer.clear();
                for (step, cell) in column.cells.iter() {
                    match cell {
                        Cell::Float(value) => buffer.push_float(grid.at(step), value),
                        Cell::Histogram(histogram) => {
                            let histogram = without_reset_knowledge(histogram);
                            buffer.histograms.push(HistogramSample {
                                at: grid.at(step),
                                start: 0,
                                histogram,
                            });
                        }
                        Cell::Absent => {}
                    }
                }
            }
        }
        Ok(())
    }
}

/// What is known about resets between stored samples says nothing about the samples that a subquery happens to take.
fn without_reset_knowledge(histogram: &Arc<Histogram>) -> Arc<Histogram> {
    match histogram.reset_hint {
        ResetHint::Reset | ResetHint::NotReset => Arc::new(Histogram {
            reset_hint: ResetHint::Unknown,
            ..(**histogram).clone()
        }),
        ResetHint::Unknown | ResetHint::Gauge => histogram.clone(),
    }
}

impl Source<'_> {
    pub(super) fn items(&self) -> Vec<Item<'_>> {
        match self {
            Source::Selected(selected) => selected
                .series
                .iter()
                .map(|series| Item::Selected(selected, series))
                .collect(),
            Source::Evaluated(matrix, grid) => matrix
                .columns
                .iter()
                .map(|column| Item::Evaluated(column, *grid))
                .collect(),
        }
    }
}

/// Visits the windows of a series at all steps, those without samples included.
pub(super) fn for_each_window(
    samples: Samples<'_>,
    frame: Frame,
    grid: Grid,
    lookback_ms: i64,
    mut visit: impl FnMut(usize, Window<'_>) -> Result<(), QueryError>,
) -> Result<(), QueryError> {
    let (before, after) = match frame.extension {
        None => (0, 0),
        Some(Extension::Anchored) => (lookback_ms, 0),
        Some(Extension::Smoothed) => (lookback_ms, lookback_ms),
    };
    let (mut floats, mut histograms) = (0..0, 0..0);
    for step in 0..grid.count {
        let at = grid.at(step);
        let end = frame.shift.apply(at);
        let start = end.saturating_sub(frame.range_ms);
        let (oldest, newest) = (start.saturating_sub(before), end.saturating_add(after));
        // Windows move forward only.
        while samples.times.get(floats.end).is_some_and(|&time| time <= newest) {
            floats.end += 1;
        }
        while floats.start < floats.end && samples.times[floats.start] <= oldest {
            floats.start += 1;
        }
        while samples
            .histograms
            .get(histograms.end)
            .is_some_and(|sample| sample.at <= newest)
        {
            histograms.end += 1;
        }
        while histograms.start < histograms.end && samples.histograms[histograms.start].at <= oldest {
            histograms.start += 1;
        }
        let window = Window {
            samples: samples.slice(floats.clone(), histograms.clone()),
            at,
            start,
            end,
            range_ms: frame.range_ms,
            params: [0.0; 2],
            trust_starts: false,
        };
        visit(step, window)?;
    }
    Ok(())
}

/// How many samples the samples of a window count as.
fn weight(samples: &Samples<'_>) -> usize {
    let histograms = samples.histograms.iter();
    let histograms: usize = histograms.map(|sample| histogram_samples(&sample.histogram)).sum();
    samples.times.len() + histograms
}

impl<'a> Evaluator<'a> {
    /// Where the windows of a range vector come from, and how they lie.
    pub(super) fn source(&mut self, node: &Node, grid: Grid) -> Result<(Source<'a>, Frame), QueryError> {
        match &node.kind {
            Kind::Window(window) => {
                let plan::Window {
                    selection,
                    shift,
                    range_ms,
                    extension,
                    ..
                } = *window;
                let frame = Frame {
                    shift,
                    range_ms,
                    extension,
                    span: node.span,
                };
                Ok((Source::Selected(&self.shared.selected[selection]), frame))
            }
            Kind::Subquery(subquery) => {
                let (matrix, inner) = self.subquery(subquery, grid)?;
                let frame = Frame {
                    shift: subquery.shift,
                    range_ms: subquery.range_ms,
                    extension: None,
                    // Where Prometheus says that notes about windows of a subquery belong: at the beginning of the query.
                    span: Span::default(),
                };
                Ok((Source::Evaluated(matrix, inner), frame))
            }
            _ => Err(QueryError::Internal("a range vector was expected".into())),
        }
    }

    /// Evaluates a subquery once for the windows of all steps.
    fn subquery(&mut self, subquery: &Subquery, grid: Grid) -> Result<(Matrix, Grid), QueryError> {
        let inner = plan::subquery_grid(
            subquery.shift.apply_span(grid.span()),
            subquery.range_ms,
            subquery.step_ms,
        );
        let counts = self.shared.counts.apart(0);
        let all = std::mem::replace(&mut self.shared.counts, counts);
        let matrix = self.vector(&subquery.inner, inner);
        let inside = std::mem::replace(&mut self.shared.counts, all);
        self.shared.counts.add_read(&inside);
        Ok((matrix?, inner))
    }

    /// Calls a range function.
    pub(super) fn range_call(&mut self, call: &Call, grid: Grid) -> Result<Matrix, QueryError> {
        let prepared = self.prepare_range_call(call, grid)?;
        self.range_columns(&prepared, grid)
    }

    /// Evaluates all that a range function needs besides the samples of each series.
    pub(super) fn prepare_range_call(&mut self, call: &Call, grid: Grid) -> Result<RangeCall<'a>, QueryError> {
        let function = call.function;
        let mut range = None;
        let mut params = Vec::new();
        for arg in &call.args {
            match arg.kind {
                Kind::Window(_) | Kind::Subquery(_) => range = Some(arg),
                _ => params.push(self.scalar(arg, grid)?),
            }
        }
        let Some(range) = range else {
            return Err(QueryError::Internal(format!("{function} without a range vector")));
        };
        let (source, mut frame) = self.source(range, grid)?;
        if function == Function::QuantileOverTime {
            frame.span = call.args[0].span;
        }
        let kernel = kernel(function, frame.extension)?;
        Ok(RangeCall {
            function,
            kernel,
            source,
            frame,
            params,
        })
    }

    /// The results of a range function as columns.
    pub(super) fn range_columns(&mut self, call: &RangeCall<'_>, grid: Grid) -> Result<Matrix, QueryError> {
        let items = call.source.items();
        let columns = self.each(&items, |shared, item, scratch: &mut Scratch| {
            let cells = call.cells(shared, item, grid, scratch)?;
            let drop_name = item.drop_name();
            let column = (!cells.is_empty()).then(|| Column {
                labels: item.labels().clone(),
                drop_name,
                cells,
            });
            shared.charged(column)
        })?;
        let columns = uncharged(columns);
        if call.keeps_name() {
            self.matrix(columns)
        } else {
            self.without_names(columns)
        }
    }
}

/// A range function with all it needs besides the samples of each series.
pub(super) struct RangeCall<'a> {
    function: Function,
    kernel: Kernel,
    pub(super) source: Source<'a>,
    frame: Frame,
    params: Vec<Scalars>,
}

impl RangeCall<'_> {
    /// Whether the result still is about the same metric.
    pub(super) fn keeps_name(&self) -> bool {
        matches!(self.function, Function::LastOverTime | Function::FirstOverTime)
    }

    /// The cells that the function makes of the windows of a series.
    pub(super) fn cells(
        &self,
        shared: &Shared<'_>,
        item: &Item<'_>,
        grid: Grid,
        scratch: &mut Scratch,
    ) -> Result<Cells, QueryError> {
        item.read(shared, &mut scratch.buffer)?;
        if scratch.buffer.is_empty() {
            return Ok(Cells::default());
        }
        let cells = match self.swept(shared, grid, &scratch.buffer) {
            Some(sweep) => self.sweep(shared, grid, sweep, scratch)?,
            None => self.window_by_window(shared, grid, metric_name(item.labels()), scratch)?,
        };
        let expects_counter = matches!(self.function, Function::Rate | Function::Increase | Function::Irate);
        if expects_counter && cells.floats().next().is_some() {
            note_doubtful_counter(shared, &mut scratch.notes, item.labels(), self.frame.span);
        }
        Ok(cells)
    }

    /// What to sweep for, if the function and the samples of the series allow to go over all windows at once.
    fn swept(&self, shared: &Shared<'_>, grid: Grid, buffer: &SampleBuffer) -> Option<Sweep> {
        if shared.counts.by_step() {
            return None;
        }
        let plain = buffer.histograms.is_empty() && (buffer.starts.is_empty() || !shared.settings.use_start_timestamps);
        if !plain || self.frame.extension.is_some() {
            return None;
        }
        let folded = |fold| self.is_short(buffer, grid).then_some(Sweep::Folded(fold));
        match self.function {
            Function::SumOverTime => folded(Fold::Sum),
            Function::AvgOverTime => folded(Fold::Mean),
            Function::MaxOverTime => folded(Fold::Greatest),
            Function::MinOverTime => folded(Fold::Least),
            Function::Rate => Some(Sweep::Extrapolated(extent::RATE)),
            Function::Increase => Some(Sweep::Extrapolated(extent::INCREASE)),
            Function::Delta => Some(Sweep::Extrapolated(extent::DELTA)),
            Function::LastOverTime => Some(Sweep::Last),
            Function::FirstOverTime => Some(Sweep::First),
            Function::CountOverTime => Some(Sweep::Count),
            Function::PresentOverTime => Some(Sweep::Present),
            _ => None,
        }
    }

    /// Whether the windows look at few enough samples for doing all of them before anybody is asked whether they still wait.
    fn is_short(&self, buffer: &SampleBuffer, grid: Grid) -> bool {
        let windows = self.frame.range_ms / grid.step_ms.max(1) + 1;
        let windows = usize::try_from(windows).unwrap_or(usize::MAX).min(grid.count);
        buffer.timestamps.len().saturating_mul(windows) <= UNCHECKED_SAMPLES_MAX
    }

    /// The cells of a series of floats.
    fn sweep(&self, shared: &Shared<'_>, grid: Grid, sweep: Sweep, scratch: &mut Scratch) -> Result<Cells, QueryError> {
        let series = sweep::Series {
            times: &scratch.buffer.timestamps,
            values: &scratch.buffer.values,
        };
        let ask = Ask {
            sweep,
            range_ms: self.frame.range_ms,
            grid,
            shift: self.frame.shift,
        };
        let (cells, looked) = scratch.pace.sweep(series, ask);
        shared.budget.check(looked.most)?;
        scratch.count(looked.samples, looked.read);
        Ok(cells)
    }

    /// The cells of any series.
    fn window_by_window(
        &self,
        shared: &Shared<'_>,
        grid: Grid,
        metric: &str,
        scratch: &mut Scratch,
    ) -> Result<Cells, QueryError> {
        let Scratch { buffer, notes, .. } = scratch;
        let mut cells = Cells::default();
        let (mut queryable, mut read, mut unchecked) = (0, 0, 0);
        // The newest sample so far: what lies behind is read anew.
        let mut seen = Timestamp::MIN;
        let mut notes = Notes {
            all: notes,
            metric,
            span: self.frame.span,
        };
        let trust_starts = shared.settings.use_start_timestamps;
        let samples = Samples::of(buffer);
        for_each_window(
            samples,
            self.frame,
            grid,
            shared.settings.lookback_ms,
            |step, mut window| {
                if window.samples.is_empty() {
                    return Ok(());
                }
                let samples = weight(&window.samples);
                shared.budget.check(samples)?;
                let fresh = weight(&window.samples.behind(seen));
                seen = window.samples.newest().unwrap_or(seen);
                queryable += samples as u64;
                read += fresh as u64;
                shared.counts.add_at(step, samples as u64, fresh as u64);
                unchecked += samples;
                if unchecked > UNCHECKED_SAMPLES_MAX {
                    unchecked = 0;
                    shared.cancel.check()?;
                }
                window.trust_starts = trust_starts;
                for (param, scalars) in window.params.iter_mut().zip(&self.params) {
                    *param = scalars.at(step);
                }
                if self.function == Function::DoubleExponentialSmoothing {
                    let [smoothing, trend] = window.params;
                    regression::check_smoothing(smoothing, trend)?;
                }
                if let Some(point) = (self.kernel)(&window, &mut notes) {
                    cells.push(step, point);
                }
                Ok(())
            },
        )?;
        scratch.count(queryable, read);
        Ok(cells)
    }
}

/// Says so when what is treated as a counter does not look like one.
fn note_doubtful_counter(shared: &Shared<'_>, notes: &mut Annotations, labels: &Labels, span: Span) {
    let metric = metric_name(labels);
    if metric.is_empty() {
        return;
    }
    if shared.settings.type_and_unit_labels {
        let kind = labels.get("__type__").unwrap_or("");
        if !matches!(kind, "counter" | "histogram") {
            notes.add(
                Note::PossibleNonCounterType {
                    metric: metric.into(),
                    kind: kind.into(),
                },
                span,
            );
        }
    } else if !["_total", "_sum", "_count", "_bucket"]
        .iter()
        .any(|suffix| metric.ends_with(suffix))
    {
        notes.add(Note::PossibleNonCounter(metric.into()), span);
    }
}

/// Functions that can do something with the edges of an anchored window.
const ANCHORED_FUNCTIONS: &[Function] = &[
    Function::Changes,
    Function::Delta,
    Function::Increase,
    Function::Rate,
    Function::Resets,
];

/// Functions that can do something with the edges of a smoothed window.
const SMOOTHED_FUNCTIONS: &[Function] = &[Function::Delta, Function::Increase, Function::Rate];

fn check_extension(function: Function, extension: Extension) -> Result<(), QueryError> {
    let allowed = match extension {
        Extension::Anchored => ANCHORED_FUNCTIONS,
        Extension::Smoothed => SMOOTHED_FUNCTIONS,
    };
    if allowed.contains(&function) {
        return Ok(());
    }
    let names: Vec<&str> = allowed.iter().map(|function| function.as_str()).collect();
    let (modifier, names) = (extension.as_str(), names.join(", "));
    Err(QueryError::Execution(format!(
        "{modifier} modifier can only be used with: {names} - not with {function}"
    )))
}

fn kernel(function: Function, extension: Option<Extension>) -> Result<Kernel, QueryError> {
    const ANCHORED: Option<Extension> = Some(Extension::Anchored);
    const SMOOTHED: Option<Extension> = Some(Extension::Smoothed);
    if let Some(extension) = extension {
        check_extension(function, extension)?;
    }
    Ok(match (function, extension) {
        (Function::Rate, None) => rate::rate,
        (Function::Increase, None) => rate::increase,
        (Function::Delta, None) => rate::delta,
        (Function::Rate, ANCHORED) => |window, notes| extended::anchored(window, notes, extent::RATE),
        (Function::Increase, ANCHORED) => |window, notes| extended::anchored(window, notes, extent::INCREASE),
        (Function::Delta, ANCHORED) => |window, notes| extended::anchored(window, notes, extent::DELTA),
        (Function::Rate, SMOOTHED) => |window, notes| extended::smoothed(window, notes, extent::RATE),
        (Function::Increase, SMOOTHED) => |window, notes| extended::smoothed(window, notes, extent::INCREASE),
        (Function::Delta, SMOOTHED) => |window, notes| extended::smoothed(window, notes, extent::DELTA),
        (Function::Changes, ANCHORED) => change::anchored_changes,
        (Function::Resets, ANCHORED) => change::anchored_resets,
        (Function::Changes, _) => change::changes,
        (Function::Resets, _) => change::resets,
        (Function::Irate, _) => rate::irate,
        (Function::Idelta, _) => rate::idelta,
        (Function::Deriv, _) => regression::deriv,
        (Function::PredictLinear, _) => regression::predict_linear,
        (Function::DoubleExponentialSmoothing, _) => regression::smooth,
        (Function::AvgOverTime, _) => over_time::average,
        (Function::CountOverTime, _) => over_time::count,
        (Function::FirstOverTime, _) => over_time::first,
        (Function::LastOverTime, _) => over_time::last,
        (Function::MadOverTime, _) => over_time::median_deviation,
        (Function::MaxOverTime, _) => over_time::max,
        (Function::MinOverTime, _) => over_time::min,
        (Function::PresentOverTime, _) => over_time::present,
        (Function::QuantileOverTime, _) => over_time::quantile_of,
        (Function::StddevOverTime, _) => over_time::deviation,
        (Function::StdvarOverTime, _) => over_time::variance,
        (Function::SumOverTime, _) => over_time::sum,
        (Function::TsOfFirstOverTime, _) => over_time::time_of_first,
        (Function::TsOfLastOverTime, _) => over_time::time_of_last,
        (Function::TsOfMaxOverTime, _) => over_time::time_of_max,
        (Function::TsOfMinOverTime, _) => over_time::time_of_min,
        (function, _) => return Err(QueryError::Internal(format!("{function} is no range function"))),
    })
}

/// Whether the function makes a value of each window, series by series.
pub(super) fn is_range_function(function: Function) -> bool {
    function != Function::AbsentOverTime && function.signature().args.contains(&ValueType::Matrix)
}
