//! The labels of a series, by shape.
//!
//! Labels decide most of what a receiver pays: bytes to copy and hash, and how well a request
//! compresses. The shapes follow what such fleets send, not what is easy to make:
//!
//! | shape | labels | bytes per series, raw | series per scrape target |
//! |---|---|---|---|
//! | K10 | 10 | about 280 | 500: 100 metrics x 5 handlers |
//! | N6 | 6 or 7 | about 169 | 1000: 100 metrics x 10 devices |
//!
//! One label, `cluster`, is the same in the whole load and made of the seed: readers select by it.
//! A renamed scrape target (churn) has another `instance` and `pod`.

use std::fmt::Write as _;

use crate::scenario::Shape;
use crate::stream::mix;

/// The label that says which load a series is of; see [`cluster`].
pub(crate) const SELECTOR: &str = "cluster";

/// Label names of the shapes: what else a receiver gives back is its own (external labels).
const NAMES_K10: [&str; 10] = [
    "__name__",
    "cluster",
    "container",
    "handler",
    "instance",
    "job",
    "method",
    "namespace",
    "pod",
    "zone",
];
const NAMES_N6: [&str; 7] =
    ["__name__", "cluster", "device", "instance", "job", "mode", "mountpoint"];

const SERVICES: [&str; 8] = [
    "checkout",
    "payments",
    "frontend",
    "inventory",
    "shipping",
    "accounts",
    "searcher",
    "gateways",
];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "HEAD"];
const MODES: [&str; 4] = ["user", "system", "idle", "iowait"];

/// Labels of one series, sorted by name; a buffer to be used again.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    pairs: Vec<(&'static str, std::ops::Range<usize>)>,
    text: String,
}

impl Labels {
    /// Names and values, sorted by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (*name, &self.text[value.clone()]))
    }

    fn push(&mut self, name: &'static str, value: std::fmt::Arguments<'_>) {
        let start = self.text.len();
        // Writing to a String cannot fail.
        let _infallible = self.text.write_fmt(value);
        self.pairs.push((name, start..self.text.len()));
    }
}

/// Series of one scrape target.
pub(crate) fn series_per_target(shape: Shape) -> u32 {
    match shape {
        Shape::K10 => 500,
        Shape::N6 => 1_000,
    }
}

/// Number of the metric of a series, below 100.
pub(crate) fn metric(shape: Shape, series: u32) -> u32 {
    let within = series % series_per_target(shape);
    match shape {
        Shape::K10 => within / 5,
        Shape::N6 => within / 10,
    }
}

/// The value of the label [`SELECTOR`] in a load.
pub(crate) fn cluster(seed: u64) -> String {
    format!("lg-{:08x}", mix(seed, 0xc105, 0) as u32)
}

/// Whether a label name belongs to the shape.
pub(crate) fn is_own(shape: Shape, name: &str) -> bool {
    match shape {
        Shape::K10 => NAMES_K10.contains(&name),
        Shape::N6 => NAMES_N6.contains(&name),
    }
}

/// Writes the labels of a series, in its generation, into `labels`.
pub(crate) fn labels(shape: Shape, seed: u64, series: u32, generation: u32, labels: &mut Labels) {
    labels.pairs.clear();
    labels.text.clear();
    let target = series / series_per_target(shape);
    let random = mix(seed, target, generation);
    let cluster = mix(seed, 0xc105, 0) as u32;
    let metric = metric(shape, series);
    let (b, c, d) = (random as u8, (random >> 8) as u8, (random >> 16) as u8);
    match shape {
        Shape::K10 => {
            let service = SERVICES[target as usize % SERVICES.len()];
            let handler = series % 5;
            let method = METHODS[metric as usize % METHODS.len()];
            labels.push("__name__", format_args!("http_server_requests_{metric:02}_total"));
            labels.push("cluster", format_args!("lg-{cluster:08x}"));
            labels.push("container", format_args!("{service}"));
            labels.push("handler", format_args!("/v1/{service}/h{handler}"));
            labels.push("instance", format_args!("10.{b}.{c}.{d}:8080"));
            labels.push("job", format_args!("{service}-api"));
            labels.push("method", format_args!("{method}"));
            labels.push("namespace", format_args!("shop-{:03}", target / 40));
            // The number of the target and of its generation make the name unique, whatever the
            // random part is.
            let suffix = random >> 24 & 0xf_ffff;
            labels.push("pod", format_args!("{service}-{target:05x}{generation:x}-{suffix:05x}"));
            labels.push("zone", format_args!("eu-west-1{}", char::from(b'a' + b % 3)));
        }
        Shape::N6 => {
            let device = series % 10;
            let mode = MODES[metric as usize % MODES.len()];
            labels.push("__name__", format_args!("node_disk_{metric:02}_seconds_total"));
            labels.push("cluster", format_args!("lg-{cluster:08x}"));
            labels.push("device", format_args!("nvme{device}n1"));
            labels.push("instance", format_args!("node-{target:05x}{generation:x}:9100"));
            labels.push("job", format_args!("node"));
            labels.push("mode", format_args!("{mode}"));
            if device < 4 {
                labels.push("mountpoint", format_args!("/data/d{device}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_sorted_unique_and_the_shapes_own() {
        for shape in [Shape::K10, Shape::N6] {
            let mut seen = HashSet::new();
            let mut buffer = Labels::default();
            for generation in 0..5 {
                for series in (0..100_000).step_by(7) {
                    labels(shape, 1, series, generation, &mut buffer);
                    let names: Vec<_> = buffer.iter().map(|(name, _)| name).collect();
                    assert!(names.is_sorted());
                    assert!(names.iter().all(|name| is_own(shape, name)));
                    assert!(buffer.iter().all(|(_, value)| !value.is_empty()));
                    let text: Vec<_> = buffer.iter().map(|(_, v)| v.to_owned()).collect();
                    assert!(seen.insert(text.join("\0")), "{series} {generation}");
                }
            }
        }
    }

    #[test]
    fn the_selector_is_in_every_series() {
        let mut buffer = Labels::default();
        labels(Shape::N6, 9, 5, 0, &mut buffer);
        assert!(buffer.iter().any(|pair| pair == (SELECTOR, &cluster(9))));
    }
}
