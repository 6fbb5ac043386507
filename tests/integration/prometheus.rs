//! A strict parser of Prometheus' text format: it fails on everything that some scraper might not accept.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// One series and its value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }
}

#[derive(Debug, Default)]
struct Family {
    kind: Option<String>,
    help: Option<String>,
    samples: Vec<Sample>,
}

/// The result of one scrape.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<String, Family>);

impl Metrics {
    /// `counter`, `gauge` or `histogram`; `None` if there is no such family.
    pub(crate) fn kind(&self, family: &str) -> Option<&str> {
        self.0.get(family)?.kind.as_deref()
    }

    /// The samples with this name, for example `…_count` of a histogram.
    pub(crate) fn samples(&self, name: &str) -> impl Iterator<Item = &Sample> {
        self.0.values().flat_map(|family| &family.samples).filter(move |sample| sample.name == name)
    }

    /// The sum of the samples that have all these labels; `None` if there is no such sample.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| labels.iter().all(|(name, value)| sample.label(name) == Some(value));
        let mut values = self.samples(name).filter(has).map(|sample| sample.value).peekable();
        values.peek().is_some().then(|| values.sum())
    }
}

/// Parses a scrape.
///
/// # Errors
/// If a line is invalid, or a family as a whole.
pub(crate) fn parse(text: &str) -> anyhow::Result<Metrics> {
    ensure!(text.is_empty() || text.ends_with('\n'), "the last line does not end");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        let name = parse_line(line, current.as_deref(), &mut families).with_context(|| line.to_owned())?;
        // The lines of a family are consecutive.
        if current.as_ref() != Some(&name) {
            ensure!(families.get(&name).is_none_or(|family| family.samples.len() <= 1), "{line}: again");
            current = Some(name);
        }
    }
    for (name, family) in &families {
        check_family(name, family).with_context(|| name.clone())?;
    }
    Ok(Metrics(families))
}

/// Parses a line, adds it to its family, and returns the family's name.
fn parse_line(
    line: &str,
    current: Option<&str>,
    families: &mut BTreeMap<String, Family>,
) -> anyhow::Result<String> {
    if let Some(comment) = line.strip_prefix("# ") {
        let mut words = comment.splitn(3, ' ');
        let (keyword, name) = (words.next().unwrap_or_default(), words.next().context("no name")?);
        let rest = words.next().unwrap_or_default().to_owned();
        ensure!(is_name(name, ":"), "not a name");
        let family = families.entry(name.to_owned()).or_default();
        ensure!(family.samples.is_empty(), "after its samples");
        let field = match keyword {
            "HELP" => &mut family.help,
            "TYPE" => {
                let known = ["counter", "gauge", "histogram", "summary", "untyped"].contains(&rest.as_str());
                ensure!(known, "an unknown type");
                &mut family.kind
            }
            _ => bail!("neither HELP nor TYPE"),
        };
        ensure!(field.replace(rest).is_none(), "twice");
        return Ok(name.to_owned());
    }
    let sample = sample(line)?;
    // The samples of a histogram have suffixes.
    let family = current
        .filter(|family| {
            let suffixes: &[&str] = match families.get(*family).and_then(|family| family.kind.as_deref()) {
                Some("histogram") => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            suffixes.iter().any(|suffix| sample.name.strip_suffix(suffix) == Some(family))
        })
        .context("a sample outside of its family")?
        .to_owned();
    families.entry(family.clone()).or_default().samples.push(sample);
    Ok(family)
}

/// `name{label="value",…} number`
fn sample(line: &str) -> anyhow::Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name, ":"), "not a name");
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").context("no label")?;
            ensure!(is_name(label, "") && !label.starts_with("__"), "{label} is no label");
            let (value, after) = quoted(after)?;
            ensure!(labels.insert(label.to_owned(), value).is_none(), "{label} twice");
            match after.strip_prefix(',') {
                Some(after) => rest = after,
                None => {
                    rest = after.strip_prefix('}').context("no end of the labels")?;
                    break;
                }
            }
        }
    }
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => {
            ensure!(
                number.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte)),
                "no number"
            );
            number.parse()?
        }
    };
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Unescapes up to the closing quote. Returns the value and the text after the quote.
fn quoted(text: &str) -> anyhow::Result<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match characters.next() {
                Some((_, 'n')) => '\n',
                Some((_, escaped @ ('"' | '\\'))) => escaped,
                other => bail!("{other:?} escaped"),
            }),
            other => value.push(other),
        }
    }
    bail!("no closing quote")
}

fn is_name(name: &str, more: &str) -> bool {
    let fits =
        |character: char| character.is_ascii_alphanumeric() || character == '_' || more.contains(character);
    name.chars().all(fits) && name.starts_with(|first: char| !first.is_ascii_digit())
}

/// Checks a family as a whole.
fn check_family(name: &str, family: &Family) -> anyhow::Result<()> {
    let kind = family.kind.as_deref().context("no TYPE")?;
    ensure!(family.help.as_ref().is_some_and(|help| !help.is_empty()), "no HELP");
    let mut series = BTreeSet::new();
    for sample in &family.samples {
        ensure!(series.insert((&sample.name, &sample.labels)), "{sample:?} twice");
        let fits = match kind {
            "gauge" => !sample.value.is_nan(),
            _ => sample.value >= 0.0,
        };
        ensure!(fits, "{sample:?}");
    }
    match kind {
        "counter" => ensure!(name.ends_with("_total"), "a counter's name ends with _total"),
        "histogram" => check_histogram(name, &family.samples)?,
        _ => {}
    }
    Ok(())
}

/// Buckets are cumulative, end with infinity, and agree with the count.
fn check_histogram(name: &str, samples: &[Sample]) -> anyhow::Result<()> {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name.ends_with("_bucket")) {
        let mut labels = sample.labels.clone();
        let end = labels.remove("le").context("a bucket without an end")?;
        let end = if end == "+Inf" { f64::INFINITY } else { end.parse()? };
        buckets.entry(labels).or_default().push((end, sample.value));
    }
    for (labels, buckets) in &buckets {
        let rising = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
        ensure!(rising, "{labels:?}: {buckets:?}");
        let value = |suffix: &str| {
            let mut found = samples
                .iter()
                .filter(|sample| sample.name == format!("{name}{suffix}") && sample.labels == *labels);
            found.next().map(|sample| sample.value).with_context(|| format!("{labels:?}: no {suffix}"))
        };
        value("_sum")?;
        ensure!(buckets.last() == Some(&(f64::INFINITY, value("_count")?)), "{labels:?}: {buckets:?}");
    }
    let counts = samples.iter().filter(|sample| sample.name.ends_with("_count")).count();
    ensure!(counts == buckets.len(), "{counts} counts of {} histograms", buckets.len());
    Ok(())
}
