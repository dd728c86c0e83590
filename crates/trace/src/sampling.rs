//! Which requests are traced. Decided once, where they come in: what is not sampled has no spans at all.

use std::sync::OnceLock;

use http::HeaderMap;
use tracing::Span;

use crate::context::{Context, adopt};

static SAMPLING: OnceLock<Sampling> = OnceLock::new();

/// Which requests are traced (`OTEL_TRACES_SAMPLER`, `OTEL_TRACES_SAMPLER_ARG`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Whether the caller's decision, where there is one, is ours.
    parent_based: bool,
    /// Of those that we decide about, from 0 to 1.
    ratio: f64,
}

impl Sampling {
    /// Reads the two variables; all that the caller does not trace otherwise is traced by default.
    ///
    /// # Errors
    /// A line about what is not understood.
    pub fn read(sampler: Option<&str>, argument: Option<&str>) -> Result<Self, String> {
        let name = sampler.unwrap_or("parentbased_always_on");
        let (parent_based, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => {
                let text = argument.unwrap_or("1");
                let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.ok_or_else(|| format!("OTEL_TRACES_SAMPLER_ARG is {text}, not 0 to 1"))?
            }
            _ => return Err(format!("OTEL_TRACES_SAMPLER is {name}, which is not known")),
        };
        Ok(Self { parent_based, ratio })
    }

    fn takes(&self, parent: Option<bool>, random: impl FnOnce() -> u64) -> bool {
        match parent {
            Some(sampled) if self.parent_based => sampled,
            _ if self.ratio >= 1.0 => true,
            _ if self.ratio <= 0.0 => false,
            _ => (random() >> 11) as f64 / ((1_u64 << 53) as f64) < self.ratio,
        }
    }
}

/// Begins to trace. Once for the process; without it nothing ever is.
pub fn install(sampling: Sampling) {
    let _ = SAMPLING.set(sampling);
}

/// The span of a request that came from a client, made by `span`; none when it is not traced.
pub fn root(
    headers: &HeaderMap,
    random: impl FnOnce() -> u64,
    span: impl FnOnce() -> Span,
) -> Span {
    let Some(sampling) = SAMPLING.get() else { return Span::none() };
    let parent = Context::of(headers).remote();
    if !sampling.takes(parent.as_ref().map(opentelemetry::trace::SpanContext::is_sampled), random) {
        return Span::none();
    }
    let span = span();
    if let Some(parent) = parent {
        adopt(&span, parent);
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the samplers of the specification decide as it says. Method: each, with and without a
    /// caller's decision.
    #[test]
    fn samplers_decide_as_specified() {
        let takes = |name, argument, parent, random| {
            Sampling::read(name, argument).expect("known").takes(parent, || random)
        };
        assert!(takes(None, None, None, 0));
        assert!(!takes(None, None, Some(false), 0));
        assert!(takes(Some("always_on"), None, Some(false), 0));
        assert!(!takes(Some("always_off"), None, Some(true), 0));
        assert!(takes(Some("parentbased_always_off"), None, Some(true), 0));
        let half = |random| takes(Some("parentbased_traceidratio"), Some("0.5"), None, random);
        assert!(half(0) && half(u64::MAX / 2 - 4096) && !half(u64::MAX / 2 + 4096));
        assert!(Sampling::read(Some("xray"), None).is_err());
        assert!(Sampling::read(Some("traceidratio"), Some("2")).is_err());
    }
}
