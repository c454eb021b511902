//! The latencies of every work as one SVG chart: for each a bar from the median to the 99th percentile on a logarithmic scale.

use std::fmt::Write;

const WIDTH: f64 = 900.0;
const NAMES_WIDTH: f64 = 360.0;
const ROW_HEIGHT: f64 = 18.0;
/// The scale's ends, in milliseconds, as powers of ten.
const FIRST_POWER: i32 = -1;
const LAST_POWER: i32 = 5;

fn x_of(milliseconds: f64) -> f64 {
    let power = milliseconds.max(10f64.powi(FIRST_POWER)).log10().min(f64::from(LAST_POWER));
    let share = (power - f64::from(FIRST_POWER)) / f64::from(LAST_POWER - FIRST_POWER);
    NAMES_WIDTH + share * (WIDTH - NAMES_WIDTH - 20.0)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

/// Draws named lists of latencies, each sorted, in milliseconds.
pub fn draw(lines: &[(String, &[f64])]) -> String {
    let height = (lines.len() as f64 + 2.0) * ROW_HEIGHT;
    let mut svg = format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">"#
    );
    for power in FIRST_POWER..=LAST_POWER {
        let (x, bottom) = (x_of(10f64.powi(power)), height - ROW_HEIGHT);
        // Writing to a string does not fail.
        let _ = write!(svg, r##"<line x1="{x}" y1="0" x2="{x}" y2="{bottom}" stroke="#ddd"/>"##);
        let _ =
            write!(svg, r#"<text x="{x}" y="{}" text-anchor="middle">{} ms</text>"#, height - 4.0, 10f64.powi(power));
    }
    for (row, (name, latencies)) in lines.iter().enumerate() {
        let y = (row as f64 + 0.5) * ROW_HEIGHT;
        let at = |share: f64| latencies.get(((latencies.len().saturating_sub(1)) as f64 * share) as usize).copied();
        let (Some(median), Some(late)) = (at(0.5), at(0.99)) else { continue };
        let (from, to) = (x_of(median), x_of(late));
        let _ = write!(svg, r#"<text x="0" y="{}">{}</text>"#, y + 4.0, escaped(name));
        let _ = write!(svg, r##"<line x1="{from}" y1="{y}" x2="{to}" y2="{y}" stroke="#36c" stroke-width="6"/>"##);
        let _ = write!(svg, r##"<circle cx="{from}" cy="{y}" r="4" fill="#c33"/>"##);
    }
    svg.push_str("</svg>\n");
    svg
}
