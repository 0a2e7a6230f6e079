//! What the records other than floats hold: new series, metadata, exemplars. `WAL.md` draws them.
//!
//! Each record names its tenant itself, so none depends on another one. Decoders believe nothing: a length is checked before
//! memory is taken, a text before it becomes a label.

use crate::codec::{Cursor, Damage, put_bytes, put_uvarint, put_varint};
use model::{
    label::{Labels, LabelsBuilder},
    metadata::{Metadata, MetricType},
    sample::Exemplar,
    tenant::Tenant,
};

/// The pair is the one at the same place of the series before.
const PAIR_SAME: u8 = 0;
/// The name is the one at the same place of the series before; the value follows.
const PAIR_VALUE: u8 = 1;
/// Name and value follow.
const PAIR_FULL: u8 = 2;

/// Adds a tenant.
pub(crate) fn put_tenant(out: &mut Vec<u8>, tenant: &Tenant) {
    put_bytes(out, tenant.as_str().as_bytes());
}

/// Reads a tenant.
pub(crate) fn read_tenant(cursor: &mut Cursor<'_>) -> Result<Tenant, Damage> {
    Tenant::new(cursor.text()?).map_err(|_| Damage("a tenant id is not valid"))
}

/// Writes label sets, each as what differs from the one before: series of one target share most of their labels.
#[derive(Debug, Default)]
pub(crate) struct LabelsWriter {
    before: Option<Labels>,
}

impl LabelsWriter {
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, labels: &Labels) {
        put_uvarint(out, labels.len() as u64);
        for (index, (name, value)) in labels.iter().enumerate() {
            let before = self
                .before
                .as_ref()
                .filter(|before| index < before.len())
                .map(|before| before.pair(index));
            match before {
                Some(pair) if pair == (name, value) => out.push(PAIR_SAME),
                Some((same, _)) if same == name => {
                    out.push(PAIR_VALUE);
                    put_bytes(out, value.as_bytes());
                }
                _ => {
                    out.push(PAIR_FULL);
                    put_bytes(out, name.as_bytes());
                    put_bytes(out, value.as_bytes());
                }
            }
        }
        self.before = Some(labels.clone());
    }
}

/// Reads what a [`LabelsWriter`] wrote.
#[derive(Debug, Default)]
pub(crate) struct LabelsReader {
    before: Option<Labels>,
    builder: LabelsBuilder,
}

impl LabelsReader {
    pub(crate) fn read(&mut self, cursor: &mut Cursor<'_>) -> Result<Labels, Damage> {
        let count = cursor.count(1)?;
        let before = self.before.take();
        let pair_before = |index: usize| {
            let before = before.as_ref().filter(|before| index < before.len());
            before
                .map(|before| before.pair(index))
                .ok_or(Damage("a label refers to a series that is not there"))
        };
        self.builder = LabelsBuilder::default();
        for index in 0..count {
            let (name, value) = match cursor.u8()? {
                PAIR_SAME => pair_before(index)?,
                PAIR_VALUE => (pair_before(index)?.0, cursor.text()?),
                PAIR_FULL => (cursor.text()?, cursor.text()?),
                _ => return Err(Damage("a label is written in an unknown way")),
            };
            self.builder.push(name, value);
        }
        let labels = self.builder.build().map_err(|_| Damage("a label set is not valid"))?;
        self.before = Some(labels.clone());
        Ok(labels)
    }
}

/// Writes the payload of a series record from labels, as [`SymbolsEncoder`] does from symbols.
#[cfg(test)]
pub(crate) struct SeriesEncoder {
    labels: LabelsWriter,
    expected: u64,
}

#[cfg(test)]
impl SeriesEncoder {
    pub(crate) fn new(out: &mut Vec<u8>, tenant: &Tenant) -> Self {
        put_tenant(out, tenant);
        Self {
            labels: LabelsWriter::default(),
            expected: 0,
        }
    }

    pub(crate) fn push(&mut self, out: &mut Vec<u8>, number: u64, labels: &Labels) {
        put_varint(out, number.wrapping_sub(self.expected) as i64);
        self.expected = number.wrapping_add(1);
        self.labels.put(out, labels);
    }
}

/// Writes the payload of a series record from the symbols of its labels, so that no text is compared.
pub(crate) struct SymbolsEncoder {
    before: Vec<(u32, u32)>,
    expected: u64,
}

impl SymbolsEncoder {
    pub(crate) fn new(out: &mut Vec<u8>, tenant: &Tenant) -> Self {
        put_tenant(out, tenant);
        Self {
            before: Vec::new(),
            expected: 0,
        }
    }

    /// From now on symbols may stand for other texts than before.
    pub(crate) fn forget(&mut self) {
        self.before.clear();
    }

    /// Adds a series; `text` gives the text of a symbol.
    pub(crate) fn push<'t>(
        &mut self,
        out: &mut Vec<u8>,
        number: u64,
        pairs: &[(u32, u32)],
        text: impl Fn(u32) -> &'t str,
    ) {
        put_varint(out, number.wrapping_sub(self.expected) as i64);
        self.expected = number.wrapping_add(1);
        put_uvarint(out, pairs.len() as u64);
        for (index, &(name, value)) in pairs.iter().enumerate() {
            match self.before.get(index) {
                Some(before) if *before == (name, value) => out.push(PAIR_SAME),
                Some((same, _)) if *same == name => {
                    out.push(PAIR_VALUE);
                    put_bytes(out, text(value).as_bytes());
                }
                _ => {
                    out.push(PAIR_FULL);
                    put_bytes(out, text(name).as_bytes());
                    put_bytes(out, text(value).as_bytes());
                }
            }
        }
        self.before.clear();
        self.before.extend_from_slice(pairs);
    }
}

/// Reads the payload of a series record and hands over each series; gives their tenant.
pub(crate) fn decode_series(payload: &[u8], mut visit: impl FnMut(&Tenant, u64, Labels)) -> Result<Tenant, Damage> {
    let mut cursor = Cursor::new(payload);
    let tenant = read_tenant(&mut cursor)?;
    let (mut labels, mut expected) = (LabelsReader::default(), 0u64);
    while !cursor.is_empty() {
        let number = expected.wrapping_add(cursor.varint()? as u64);
        expected = number.wrapping_add(1);
        visit(&tenant, number, labels.read(&mut cursor)?);
    }
    Ok(tenant)
}

/// Adds the payload of a metadata record.
pub(crate) fn encode_metadata<'a>(out: &mut Vec<u8>, tenant: &Tenant, all: impl Iterator<Item = &'a Metadata>) {
    put_tenant(out, tenant);
    for metadata in all {
        put_bytes(out, metadata.family.as_bytes());
        out.push(metric_type_code(metadata.kind));
        put_bytes(out, metadata.unit.as_bytes());
        put_bytes(out, metadata.help.as_bytes());
    }
}

/// Reads the payload of a metadata record.
pub(crate) fn decode_metadata(payload: &[u8]) -> Result<(Tenant, Vec<Metadata>), Damage> {
    let mut cursor = Cursor::new(payload);
    let tenant = read_tenant(&mut cursor)?;
    let mut all = Vec::new();
    while !cursor.is_empty() {
        all.push(Metadata {
            family: cursor.text()?.to_owned(),
            kind: MetricType::from_wire(u64::from(cursor.u8()?)),
            unit: cursor.text()?.to_owned(),
            help: cursor.text()?.to_owned(),
        });
    }
    Ok((tenant, all))
}

/// The number of a type on the wire, which stands for it here as well.
fn metric_type_code(kind: MetricType) -> u8 {
    match kind {
        MetricType::Unknown => 0,
        MetricType::Counter => 1,
        MetricType::Gauge => 2,
        MetricType::Histogram => 3,
        MetricType::GaugeHistogram => 4,
        MetricType::Summary => 5,
        MetricType::Info => 6,
        MetricType::StateSet => 7,
    }
}

/// Adds an exemplar of series `number` to the payload of an exemplar record.
pub(crate) fn put_exemplar(out: &mut Vec<u8>, number: u64, exemplar: &Exemplar) {
    put_uvarint(out, number);
    put_varint(out, exemplar.at);
    out.extend_from_slice(&exemplar.value.to_bits().to_le_bytes());
    LabelsWriter::default().put(out, &exemplar.labels);
}

/// Reads the payload of an exemplar record.
pub(crate) fn decode_exemplars(payload: &[u8]) -> Result<Vec<(u64, Exemplar)>, Damage> {
    let mut cursor = Cursor::new(payload);
    let mut all = Vec::new();
    while !cursor.is_empty() {
        let number = cursor.uvarint()?;
        let at = cursor.varint()?;
        let value = f64::from_bits(cursor.u64()?);
        let labels = LabelsReader::default().read(&mut cursor)?;
        all.push((number, Exemplar { labels, value, at }));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn series_come_back_and_repeat_little() {
        let tenant = Tenant::new("team").unwrap();
        let all: Vec<_> = (0..100u64)
            .map(|index| {
                let path = format!("/path/{index}");
                (
                    index * index,
                    labels(&[
                        ("__name__", "requests_total"),
                        ("job", "a long job name"),
                        ("path", &path),
                    ]),
                )
            })
            .chain([(7, Labels::empty()), (8, labels(&[("z", "1")]))])
            .collect();
        let mut out = Vec::new();
        let mut encoder = SeriesEncoder::new(&mut out, &tenant);
        all.iter()
            .for_each(|(number, labels)| encoder.push(&mut out, *number, labels));
        let mut texts: Vec<&str> = all
            .iter()
            .flat_map(|(_, labels)| labels.iter().flat_map(|(n, v)| [n, v]))
            .collect();
        texts.sort_unstable();
        texts.dedup();
        let symbol = |text: &str| texts.binary_search(&text).unwrap() as u32;
        let mut same = Vec::new();
        let mut encoder = SymbolsEncoder::new(&mut same, &tenant);
        for (number, labels) in &all {
            let pairs: Vec<_> = labels
                .iter()
                .map(|(name, value)| (symbol(name), symbol(value)))
                .collect();
            encoder.push(&mut same, *number, &pairs, |symbol| texts[symbol as usize]);
        }
        assert_eq!(same, out);
        let mut read = Vec::new();
        decode_series(&out, |of, number, labels| {
            assert_eq!(of, &tenant);
            read.push((number, labels));
        })
        .unwrap();
        assert_eq!(read, all);
        assert!(out.len() < 100 * 18, "{} bytes", out.len());
        for end in 0..out.len() {
            let _ = decode_series(&out[..end], |_, _, _| {});
        }
    }

    #[test]
    fn metadata_and_exemplars_come_back() {
        let (tenant, mut out) = (Tenant::default(), Vec::new());
        let kinds = [
            MetricType::Unknown,
            MetricType::Counter,
            MetricType::Gauge,
            MetricType::Histogram,
            MetricType::GaugeHistogram,
            MetricType::Summary,
            MetricType::Info,
            MetricType::StateSet,
        ];
        let all: Vec<_> = kinds
            .into_iter()
            .map(|kind| Metadata {
                family: kind.as_str().into(),
                kind,
                unit: "s".into(),
                help: "Helps.".into(),
            })
            .collect();
        encode_metadata(&mut out, &tenant, all.iter());
        assert_eq!(decode_metadata(&out), Ok((tenant, all)));

        let exemplar = Exemplar {
            labels: labels(&[("trace_id", "abc")]),
            value: -0.0,
            at: -5,
        };
        let mut out = Vec::new();
        put_exemplar(&mut out, 99, &exemplar);
        assert_eq!(decode_exemplars(&out), Ok(vec![(99, exemplar)]));
    }
}
