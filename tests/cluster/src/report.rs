//! Results as JSON and as plots.

use std::{error::Error, fs, path::PathBuf};

use clap::Args;
use plotters::prelude::{
    BLACK, ChartBuilder, Circle, Color, IntoDrawingArea, IntoLogRange, LineSeries, Palette, Palette99,
    PathElement, SVGBackend, WHITE,
};
use serde_json::Value;

/// Where results go beside the text.
#[derive(Args)]
pub struct Output {
    /// Write all figures into this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw them into this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

/// Lines over a logarithmic axis.
pub struct Plot<'a> {
    /// What it shows.
    pub title: &'a str,
    /// What is measured along the logarithmic axis, with its unit.
    pub x: &'a str,
    /// What is measured along the other one, with its unit.
    pub y: &'a str,
    /// Lines by name; points with an x above 0.
    pub lines: &'a [(String, Vec<(f64, f64)>)],
}

const SIZE: (u32, u32) = (900, 560);

impl Output {
    /// Writes what is wanted.
    ///
    /// # Errors
    /// If a file cannot be written; it is named.
    pub fn write(&self, results: &Value, plot: &Plot<'_>) -> Result<(), String> {
        if let Some(path) = &self.json {
            fs::write(path, format!("{results:#}\n"))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        if let Some(path) = &self.plot {
            let mut text = String::new();
            plot.draw(&mut text).map_err(|error| format!("the plot cannot be drawn: {error}"))?;
            fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(())
    }
}

impl Plot<'_> {
    fn draw(&self, out: &mut String) -> Result<(), Box<dyn Error>> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
        let most = points().map(|point| point.0).fold(0.0, f64::max);
        let high = points().map(|point| point.1).fold(0.0, f64::max);
        if most <= 0.0 || least <= 0.0 || high <= 0.0 {
            return Err("nothing was measured".into());
        }
        let area = SVGBackend::with_string(out, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d((least * 0.8..most * 1.25).log_scale(), 0.0..high * 1.1)?;
        chart.configure_mesh().x_desc(self.x).y_desc(self.y).label_style(("sans-serif", 13)).draw()?;
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(3)));
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .background_style(WHITE)
            .border_style(BLACK)
            .label_font(("sans-serif", 13))
            .draw()?;
        area.present()?;
        drop(chart);
        Ok(())
    }
}

/// The median and the largest of some figures.
///
/// # Panics
/// If there are none.
pub fn median_and_worst(figures: impl Iterator<Item = f64>) -> (f64, f64) {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    (figures[figures.len() / 2], figures[figures.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_drawn_with_their_names() {
        let lines = [
            ("one way".to_string(), vec![(10.0, 1.0), (1000.0, 3.0)]),
            ("another".into(), vec![(100.0, 2.0)]),
        ];
        let mut svg = String::new();
        Plot { title: "All of it", x: "rows", y: "seconds", lines: &lines }.draw(&mut svg).unwrap();
        for text in ["<svg", "All of it", "rows", "seconds", "one way", "another"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        let nothing = Plot { title: "", x: "", y: "", lines: &[] }.draw(&mut svg);
        assert_eq!(nothing.unwrap_err().to_string(), "nothing was measured");
    }

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median_and_worst([3.0, 1.0, 2.0].into_iter()), (2.0, 3.0));
    }
}
