//! The log, and traces to an OTLP collector when `OTEL_EXPORTER_OTLP_ENDPOINT` names one.

use std::{collections::HashMap, io::IsTerminal, time::Duration};

use holdfast_trace::Sampling;
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Dispatch, Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter, Layer, filter::dynamic_filter_fn, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::failure::Failure;

/// s3s logs every refused request as an error with its whole answer; the gateway logs what matters.
const LOG_DEFAULT: &str = "info,s3s=off";

/// What travels to the collector is no matter of the log.
const LOG_WITHOUT: [&str; 2] = ["holdfast_trace=off", "opentelemetry=warn"];

/// The last spans have this long to leave when the process ends.
pub const FLUSH_PATIENCE: Duration = Duration::from_secs(2);

/// What exports spans; ends with the process.
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts to log and, where a collector is named, to trace. Called once, within the runtime that the
/// exporter is to use. `instance` names the process among its like: where it listens.
///
/// # Errors
/// [`Failure`] for variables that are not understood.
pub fn start(env: &HashMap<String, String>, instance: &str) -> Result<Telemetry, Failure> {
    let set = |name: &str| env.get(name).map(String::as_str).filter(|text| !text.is_empty());
    let named = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or(set("OTEL_EXPORTER_OTLP_ENDPOINT"));
    let provider = match named {
        Some(endpoint) => Some(provider(endpoint, &set, instance)?),
        None => None,
    };
    let filter = set("HOLDFAST_LOG").unwrap_or(LOG_DEFAULT);
    let mut filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(
            format!("read HOLDFAST_LOG={filter}: {error}"),
            "set it to a level, or to levels by target: info,holdfast_engine=debug",
        )
    })?;
    for directive in LOG_WITHOUT {
        filter = filter.add_directive(directive.parse().expect("directives here are constants"));
    }
    // A test that calls this twice keeps the first.
    let _ = listeners(filter, provider.as_ref()).try_init();
    Ok(Telemetry(provider))
}

/// Who hears of events and spans: the log, and the exporter when there is one. A layer that is `None` lets
/// everything pass, so that every span there is would be made for nobody; it is left out instead.
fn listeners(filter: EnvFilter, provider: Option<&SdkTracerProvider>) -> Dispatch {
    let registry = tracing_subscriber::registry();
    match provider {
        Some(provider) => registry.with(traces(provider)).with(log(filter)).into(),
        None => registry.with(log(filter)).into(),
    }
}

/// The layer that writes the log.
fn log<S>(filter: EnvFilter) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_filter(filter)
}

/// The layer that hands spans of traces, and nothing else, to the exporter.
fn traces<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    // Everybody else's spans are none of ours, and are found out once, not each time: one of theirs in
    // between would hide what it is within.
    let ours = |metadata: &'static Metadata<'static>| match metadata.target() {
        holdfast_trace::TARGET => Interest::sometimes(),
        _ => Interest::never(),
    };
    let wanted = dynamic_filter_fn(|metadata, context| {
        holdfast_trace::is_wanted(metadata, context.lookup_current().is_some())
    });
    let wanted = wanted.with_max_level_hint(LevelFilter::INFO).with_callsite_filter(ours);
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("holdfast"))
        // Where a span is in the source and on which thread it was made costs more than it tells.
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false)
        .with_target(false)
        .with_filter(wanted)
}

fn provider<'a>(
    endpoint: &str,
    set: &impl Fn(&str) -> Option<&'a str>,
    instance: &str,
) -> Result<SdkTracerProvider, Failure> {
    let refused = |cause: String, cure: &str| Failure::new(format!("start traces: {cause}"), cure);
    if let Some(other) = set("OTEL_EXPORTER_OTLP_PROTOCOL").filter(|it| *it != "grpc") {
        return Err(refused(
            format!("OTEL_EXPORTER_OTLP_PROTOCOL is {other}, spans leave by grpc alone"),
            "set it to grpc or leave it out, and name the collector's gRPC port (4317)",
        ));
    }
    if !endpoint.starts_with("http://") {
        return Err(refused(
            format!("the collector {endpoint} is not reached by http://"),
            "name an agent on this machine or network as http://HOST:4317",
        ));
    }
    let sampling = Sampling::read(set("OTEL_TRACES_SAMPLER"), set("OTEL_TRACES_SAMPLER_ARG"))
        .map_err(|cause| refused(cause, "use a sampler of the OpenTelemetry specification"))?;
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
    let exporter = exporter.map_err(|error| {
        refused(format!("{endpoint}: {error}"), "check OTEL_EXPORTER_OTLP_ENDPOINT")
    })?;
    let name = set("OTEL_SERVICE_NAME").unwrap_or("holdfastd").to_owned();
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // Whether a request is traced is decided where it comes in: what has spans is sampled.
        .with_sampler(Sampler::AlwaysOn)
        .with_resource(resource)
        .build();
    holdfast_trace::install(sampling);
    Ok(provider)
}

impl Telemetry {
    /// Sends what is left. Blocks for [`FLUSH_PATIENCE`] at most.
    pub fn end(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_PATIENCE)
        {
            eprintln!("holdfastd: send the last spans: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: where nothing is exported nobody's span is made, and the log is written all the same. Method:
    /// spans of ours and of another crate, and an event, without a provider.
    #[tokio::test]
    async fn without_a_collector_no_span_is_made() {
        let mut filter = EnvFilter::new(LOG_DEFAULT);
        for directive in LOG_WITHOUT {
            filter = filter.add_directive(directive.parse().expect("a constant"));
        }
        tracing::dispatcher::with_default(&listeners(filter, None), || {
            assert!(holdfast_trace::span!("s3.request").is_none());
            assert!(tracing::info_span!(target: "s3s", "prepare").is_disabled());
            assert!(tracing::enabled!(tracing::Level::INFO));
        });
    }
}
