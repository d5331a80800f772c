//! A report as one HTML page, which needs nothing else.

use std::{error::Error, fmt::Write as _};

use plotters::{
    coord::{ranged1d::ValueFormatter, types::RangedCoordf64},
    prelude::{
        Cartesian2d, ChartBuilder, ChartContext, Color, IntoDrawingArea, IntoFont, IntoLogRange, LineSeries,
        Palette, Palette99, PathElement, RED, RGBColor, Ranged, Rectangle, SVGBackend, Text, WHITE,
    },
};

use super::{report::Report, transactions::Kind};

const SIZE: (u32, u32) = (1000, 420);
const FONT: (&str, u32) = ("sans-serif", 14);
/// Room for the legend, beside the lines.
const LEGEND: f64 = 1.18;
const GREY: RGBColor = RGBColor(110, 118, 129);

const STYLE: &str = "
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto; max-width: 64rem; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.setting { color: #57606a; margin: .2rem 0 1.5rem } .figures { display: flex; gap: 3rem; flex-wrap: wrap }
.figures b { display: block; font-size: 2.2rem; line-height: 1.2 } .figures span { color: #57606a }
.warning { background: #fff4d6; padding: .5rem .8rem; border-radius: 6px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #d8dee4 } th { color: #57606a; font-weight: 600 }
td { white-space: nowrap } th:first-child, td:first-child { text-align: left } svg { width: 100%; height: auto } li { margin: .2rem 0 }
";

/// The page.
///
/// # Errors
/// If something cannot be drawn.
pub fn page(report: &Report) -> Result<String, String> {
    let cannot = |error: Box<dyn Error>| format!("the page cannot be drawn: {error}");
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>DBT2: {:.0} NOTPM</title>\n<style>{STYLE}</style>\n<h1>DBT2</h1>\n<p class=\"setting\">{}</p>\n",
        report.notpm,
        escaped(&report.setting())
    );
    let mut put = |text: std::fmt::Arguments<'_>| html.write_fmt(text).expect("a text takes all");
    if let Some(warning) = report.warning() {
        put(format_args!("<p class=\"warning\">{}</p>\n", escaped(&warning)));
    }
    let committed: u64 = report.transactions.iter().map(|kind| kind.committed).sum();
    put(format_args!(
        "<div class=\"figures\"><div><b>{}</b><span>New-Order transactions per minute (NOTPM)</span></div>\
         <div><b>{}</b><span>transactions of all kinds per second</span></div>\
         <div><b>{}</b><span>committed in {:.0} s</span></div></div>\n",
        grouped(report.notpm),
        grouped(report.per_second),
        grouped(committed as f64),
        report.settings.measure_s
    ));
    put(format_args!("<h2>Throughput over time</h2>\n{}", throughput(report).map_err(cannot)?));
    put(format_args!("<h2>Latency</h2>\n{}", latencies(report).map_err(cannot)?));
    put(format_args!(
        "<h2>Transactions</h2>\n<table><tr><th></th><th>per second</th><th>committed</th><th>share</th><th>p50 ms</th><th>p95</th>\
         <th>p99</th><th>p99.9</th><th>max</th><th>roll-backs</th><th>retries</th><th>unknown</th><th>failed</th></tr>\n"
    ));
    for kind in &report.transactions {
        let latency = &kind.latency_us;
        put(format_args!(
            "<tr><td>{}</td><td>{:.1}</td><td>{}</td><td>{:.1} %</td>",
            kind.transaction,
            kind.per_second,
            grouped(kind.committed as f64),
            kind.share_percent
        ));
        for us in [latency.p50, latency.p95, latency.p99, latency.p999, latency.max] {
            put(format_args!("<td>{:.2}</td>", us / 1000.0));
        }
        put(format_args!("<td>{}</td>", kind.rolled_back));
        for counts in [&kind.retried, &kind.unknown, &kind.failed] {
            put(format_args!("<td>{}</td>", counts.values().sum::<u64>()));
        }
        put(format_args!("</tr>\n"));
    }
    put(format_args!("</table>\n"));
    let errors = report.errors();
    if !errors.is_empty() {
        put(format_args!("<h2>Errors of the whole run</h2>\n<ul>\n"));
        errors.iter().for_each(|line| put(format_args!("<li>{}</li>\n", escaped(line))));
        put(format_args!("</ul>\n"));
    }
    let settings = serde_json::to_string_pretty(&report.settings).map_err(|error| error.to_string())?;
    put(format_args!(
        "<h2>How it was run</h2>\n<p>The sizes, transactions and mix of TPC-C as DBT2 runs them; this is no TPC result. \
         Latencies go from when a transaction was sent to its answer, with all attempts; only what was committed counts, in \
         the part of the time that is not grey.</p>\n<pre>{}</pre>\n</html>\n",
        escaped(&settings)
    ));
    Ok(html)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// 12,345
fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// 1, 1.5, 0.02
fn short(number: f64) -> String {
    let text = format!("{number:.3}");
    text.trim_end_matches('0').trim_end_matches('.').into()
}

/// A chart of numbers over numbers.
type Chart<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, RangedCoordf64>>;

fn axes<X: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    chart: &mut Chart<'_, '_, X>,
    x: &str,
    (y, y_label): (&str, fn(f64) -> String),
) -> Result<(), Box<dyn Error>> {
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x)
        .x_label_formatter(&|number| short(*number))
        .y_label_formatter(&|number| y_label(*number))
        .y_desc(y)
        .label_style(FONT)
        .draw()?;
    Ok(())
}

fn line<X: Ranged<ValueType = f64>>(
    chart: &mut Chart<'_, '_, X>,
    name: &str,
    number: usize,
    points: impl IntoIterator<Item = (f64, f64)>,
) -> Result<(), Box<dyn Error>> {
    let color = Palette99::pick(number).to_rgba();
    chart
        .draw_series(LineSeries::new(points, color.stroke_width(2)))?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(3)));
    Ok(())
}

fn legend<'a, 'b: 'a, X: Ranged<ValueType = f64>>(
    chart: &mut Chart<'a, 'b, X>,
) -> Result<(), Box<dyn Error>> {
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(GREY)
        .label_font(FONT)
        .draw()?;
    Ok(())
}

fn throughput(report: &Report) -> Result<String, Box<dyn Error>> {
    let timeline = &report.timeline;
    let rate = |count: u64| count as f64 / timeline.interval_s;
    let length = (timeline.committed.len() as f64 * timeline.interval_s).max(timeline.until_s);
    let totals = || timeline.committed.iter().map(|counts| rate(counts.iter().sum()));
    let top = totals().fold(1.0, f64::max) * 1.15;
    let points = |of: &dyn Fn(&[u64; 5]) -> u64| -> Vec<(f64, f64)> {
        let middle = |place: usize| (place as f64 + 0.5) * timeline.interval_s;
        timeline
            .committed
            .iter()
            .enumerate()
            .map(|(place, counts)| (middle(place), rate(of(counts))))
            .collect()
    };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..length * LEGEND, 0.0..top)?;
        axes(&mut chart, "seconds", ("committed per second", grouped))?;
        for (from, until) in [(0.0, timeline.from_s), (timeline.until_s, length)] {
            let corners = [(from, 0.0), (until, top)];
            chart.draw_series([Rectangle::new(corners, GREY.mix(0.12).filled())])?;
        }
        line(&mut chart, "all", 5, points(&|counts| counts.iter().sum()))?;
        for kind in Kind::ALL {
            line(&mut chart, kind.name(), kind as usize, points(&|counts| counts[kind as usize]))?;
        }
        for (number, event) in report.events.iter().enumerate() {
            let height = top * (0.97 - 0.06 * (number % 4) as f64);
            chart.draw_series([PathElement::new(
                [(event.at_s, 0.0), (event.at_s, top)],
                RED.stroke_width(1),
            )])?;
            let label =
                Text::new(format!(" {}", event.command), (event.at_s, height), FONT.into_font().color(&RED));
            chart.draw_series([label])?;
        }
        legend(&mut chart)?;
        area.present()?;
    }
    Ok(svg)
}

fn latencies(report: &Report) -> Result<String, Box<dyn Error>> {
    let all = || report.transactions.iter().flat_map(|kind| &kind.latency_distribution_us);
    let least = all().map(|point| point.0).fold(f64::INFINITY, f64::min) / 1000.0;
    let most = all().map(|point| point.0).fold(0.0, f64::max) / 1000.0;
    let (least, most) = if most > 0.0 { (least * 0.9, most * 1.1) } else { (0.1, 1.0) };
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d((least..most * (most / least).powf(LEGEND - 1.0)).log_scale(), 0.0..100.0)?;
        axes(&mut chart, "milliseconds, logarithmic", ("% of the transactions", short))?;
        for (number, kind) in report.transactions.iter().enumerate() {
            let points = kind.latency_distribution_us.iter().map(|&(us, percent)| (us / 1000.0, percent));
            line(&mut chart, kind.transaction, number, points)?;
        }
        legend(&mut chart)?;
        area.present()?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        cpu::Usage,
        dbt2::{
            counts::Counts,
            run::{Event, Plan, Ran},
            schema::Sizes,
            transactions::{Done, Fault, FaultClass},
        },
        measure::Window,
    };
    use twofold_proto::time::{Duration, Time};

    fn report() -> Report {
        let second = Duration::from_secs(1);
        let window = Window::timed(Time(0), second, 2 * second, second);
        let mut counts = Counts::new(window, second);
        for millis in 1000..2000 {
            let now = Time::from_millis(millis);
            counts.done(Kind::NewOrder, Done::Committed, Time::from_millis(millis - 5), now);
        }
        let fault = Fault { class: FaultClass::Retry, name: "1213".into(), text: "a < b".into() };
        counts.fault(Kind::Payment, fault, true);
        let events = vec![Event { at: 1.5, command: "kill a & b".into() }];
        let times = [second, 2 * second, second];
        let plan = Plan { terminals: 8, threads: 1, think: false, times, seed: 1, events };
        let nobody = crate::cpu::Processes { clients: Vec::new(), servers: Vec::new() };
        let samples = [nobody.sample(), nobody.sample()];
        let ran = Ran { counts, interval: second, samples };
        let usage = Usage { own: 0.5, servers: BTreeMap::new() };
        Report::new("SQL", "MariaDB".into(), Sizes { warehouses: 1, scale: 10 }, &plan, ran, &usage)
    }

    #[test]
    fn a_report_tells_what_was_counted() {
        let report = report();
        assert_eq!((report.notpm, report.per_second, report.comparable), (30_000.0, 500.0, false));
        let text = report.text();
        for part in
            ["30000 NOTPM", "1 warehouse, 8 terminals", "10 times fewer", "Payment 1 × tried again: a < b"]
        {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_page_is_whole_and_needs_nothing_else() {
        let html = page(&report()).unwrap();
        for part in
            ["30,000", "Throughput over time", "kill a &amp; b", "1 × tried again: a &lt; b", "</html>"]
        {
            assert!(html.contains(part), "{part} is not in {html}");
        }
        assert_eq!(html.matches("<svg").count(), 2);
        assert!(!html.contains("src=") && !html.contains("href="), "{html}");
        assert_eq!([1.0, 999.0, 1000.0, 1_234_567.0].map(grouped), ["1", "999", "1,000", "1,234,567"]);
    }
}
