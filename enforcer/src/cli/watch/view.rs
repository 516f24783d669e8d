//! The full-screen view: a pure function from a picture, a time and an area to what is drawn.

use atalaya_enforcer::control::answers::FaultKind;
use atalaya_enforcer::control::answers::{RouterAnswer, SensorAnswer, Status};
use atalaya_enforcer::control::rates::Rate;
use atalaya_enforcer::ledger::Ban;
use atalaya_wire::Name;
use jiff::{SignedDuration, Timestamp};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Sparkline, Table, Wrap};

use super::picture::{Pane, Picture};
use crate::cli::paint::{Tone, paragraph};
use crate::cli::status::{fault_text, next_command, open_files, router_state, wellness};
use crate::cli::words;

/// Heights of a bar, an eighth each.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// A sensor that was heard so lately is well.
const HEARD: SignedDuration = SignedDuration::from_mins(2);

const HELP: &str = "\
q, Esc, Ctrl-C   end
p, space         pause: stand still, while the enforcer goes on
Tab, Shift-Tab   the next pane: bans, routers, sensors
↑ ↓ PgUp PgDn    scroll the pane
Home, End        its first and its last row
? or h           this help

in sync          entries of ours on the router's list, of the bans that it should hold
queue            prefixes that wait, and commands in flight
latency          of the last command, and before it by second";

/// Draws the whole screen.
pub fn draw(frame: &mut Frame, picture: &Picture, now: Timestamp) {
    let area = frame.area();
    let Some(status) = &picture.status else {
        let text = picture.lost.as_ref().map_or("asking the enforcer…", |(_, why)| why.as_str());
        frame.render_widget(Paragraph::new(words::harmless(text)).wrap(Wrap { trim: true }), area);
        return;
    };
    let faults = faults(picture, status, now, (area.height / 4).max(1), area.width);
    let few = |rows: usize, most: u16| u16::try_from(rows).unwrap_or(u16::MAX).min(most).saturating_add(1);
    let third = area.height.saturating_sub(6) / 3;
    let [headline, fault_area, rates, routers, sensors, bans, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(faults.len()).unwrap_or(u16::MAX)),
        Constraint::Length(if area.height >= 16 { 4 } else { 1 }),
        Constraint::Length(few(status.routers.len(), third.max(1))),
        Constraint::Length(if area.height >= 20 {
            few(status.sensors.len(), third.saturating_sub(1))
        } else {
            1
        }),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_headline(frame, picture, status, now, headline);
    frame.render_widget(Paragraph::new(faults), fault_area);
    draw_rates(frame, picture, status, rates);
    draw_routers(frame, picture, status, routers);
    draw_sensors(frame, picture, status, sensors);
    draw_bans(frame, picture, status.now, bans);
    let help = if area.width >= 60 {
        "q quit   p pause   Tab next pane   ↑ ↓ scroll   ? help"
    } else {
        "q quit  p pause  ? help"
    };
    frame.render_widget(Paragraph::new(help).style(picture.style(Tint::Faint)), keys);
    if picture.help {
        draw_help(frame, area);
    }
}

/// What a part of the screen stands for.
#[derive(Clone, Copy)]
enum Tint {
    Heading,
    Chosen,
    Good,
    Bad,
    Faint,
    Bars,
}

// === impl Picture ===

impl Picture {
    fn style(&self, tint: Tint) -> Style {
        let plain = Style::new();
        let coloured = |colour| if self.colour { plain.fg(colour) } else { plain };
        match tint {
            Tint::Heading => plain.add_modifier(Modifier::BOLD),
            Tint::Chosen => plain.add_modifier(Modifier::BOLD | Modifier::REVERSED),
            Tint::Good => coloured(Color::Green),
            Tint::Bad => coloured(Color::Red).add_modifier(Modifier::BOLD),
            Tint::Faint => plain.add_modifier(Modifier::DIM),
            Tint::Bars => coloured(Color::Cyan),
        }
    }

    fn heading(&self, pane: Pane) -> Style {
        self.style(if self.pane == pane { Tint::Chosen } else { Tint::Heading })
    }

    fn is_faulty(&self, name: &Name, of: fn(FaultKind) -> bool) -> bool {
        let faults = self.status.iter().flat_map(|status| &status.faults);
        faults.into_iter().any(|fault| fault.name.as_ref() == Some(name) && of(fault.kind))
    }
}

fn draw_headline(frame: &mut Frame, picture: &Picture, status: &Status, now: Timestamp, area: Rect) {
    let (tint, well) = if let Some((since, _)) = &picture.lost {
        (Tint::Bad, format!("NO ENFORCER ANSWERS for {}", words::length(now.duration_since(*since))))
    } else {
        let (tone, well) = wellness(status);
        let tint = match tone {
            Tone::Good => Tint::Good,
            Tone::Bad => Tint::Bad,
            Tone::Heading | Tone::Plain => Tint::Heading,
        };
        (tint, well)
    };
    let up = words::length(status.now.duration_since(status.started));
    let mut line = vec![
        Span::styled("Atalaya ", picture.style(Tint::Heading)),
        Span::styled(well, picture.style(tint)),
        Span::raw(format!("  {}", words::counted(status.bans, "ban"))),
        Span::raw(format!("  up {up}")),
        Span::raw(format!("  {}", words::hour_of_zone(status.now))),
    ];
    // Last, for it is the first to be cut off where the row is short.
    line.extend(status.open_files.map(|files| Span::raw(format!("  {}", open_files(files)))));
    if picture.paused {
        line.insert(1, Span::styled("PAUSED ", picture.style(Tint::Chosen)));
    }
    frame.render_widget(Line::from(line), area);
}

/// The faults in at most so many rows: whole where there is room, a row each where not.
fn faults(picture: &Picture, status: &Status, now: Timestamp, most: u16, columns: u16) -> Vec<Line<'static>> {
    let (most, columns) = (usize::from(most), usize::from(columns));
    let lost = picture.lost.as_ref().map(|(_, why)| (words::harmless(why).into_owned(), None));
    let said = |fault| (fault_text(fault, now.max(status.now)), next_command(fault));
    let texts: Vec<(String, Option<String>)> =
        lost.into_iter().chain(status.faults.iter().map(said)).collect();
    let mut lines = Vec::new();
    for (text, next) in &texts {
        lines.extend(paragraph(columns.max(20), "! ", text));
        lines.extend(next.iter().map(|next| format!("  {next}")));
    }
    if lines.len() > most {
        let shown = if texts.len() > most { most - 1 } else { texts.len() };
        lines = texts[..shown].iter().map(|(text, _)| format!("! {text}")).collect();
        if texts.len() > shown {
            lines.push(format!(
                "! and {}: atalaya-enforcer status --all",
                words::counted(texts.len() - shown, "more fault")
            ));
        }
    }
    let line = |text: String| Line::styled(words::cut(&text, columns).into_owned(), picture.style(Tint::Bad));
    lines.into_iter().map(line).collect()
}

fn draw_rates(frame: &mut Frame, picture: &Picture, status: &Status, area: Rect) {
    let rates = &status.rates;
    let both = [("offences", &rates.offences), ("bans", &rates.bans)];
    let parts: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).spacing(2).areas(area);
    for ((what, rate), area) in both.into_iter().zip(parts) {
        let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        frame.render_widget(Line::styled(rate_title(what, rate), picture.style(Tint::Heading)), title);
        let latest = rate.by_second.len().saturating_sub(usize::from(bars.width));
        // The latest second is at the right edge, however few there are.
        let room = usize::from(bars.width).saturating_sub(rate.by_second.len());
        let empty = std::iter::repeat_n(0, room);
        let data: Vec<u64> = empty.chain(rate.by_second[latest..].iter().copied()).collect();
        // A single ban should not look like a flood.
        let highest = data.iter().copied().max().unwrap_or(0).max(4);
        frame.render_widget(
            Sparkline::default().data(data).max(highest).style(picture.style(Tint::Bars)),
            bars,
        );
    }
}

fn rate_title(what: &str, rate: &Rate) -> String {
    let now = rate.by_second.last().copied().unwrap_or(0);
    format!("{what}/s {}, {} a minute", words::count(now), words::count(rate.last_minute))
}

fn draw_routers(frame: &mut Frame, picture: &Picture, status: &Status, area: Rect) {
    let header = ["ROUTER", "STATE", "IN SYNC", "QUEUE", "LATENCY", "ITS COURSE"];
    let longest = status.routers.iter().map(|router| router.status.name.as_str().len()).max().unwrap_or(0);
    let name = longest.clamp(6, 20);
    // What the other columns and the gaps leave.
    let bars = usize::from(area.width).saturating_sub(name + 49).clamp(4, 60);
    let rows = status.routers.iter().skip(picture.scrolled[Pane::Routers as usize]).map(|router| {
        let bad = picture.is_faulty(&router.status.name, FaultKind::is_routers);
        let row = Row::new(router_cells(router, status.now, bars, picture));
        if bad { row.style(picture.style(Tint::Bad)) } else { row }
    });
    let widths = [
        Constraint::Length(name as u16),
        Constraint::Length(12),
        Constraint::Length(17),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(bars as u16),
    ];
    let table = Table::new(rows.collect::<Vec<_>>(), widths)
        .header(Row::new(header).style(picture.heading(Pane::Routers)));
    frame.render_widget(table, area);
}

fn router_cells(
    router: &RouterAnswer,
    now: Timestamp,
    columns: usize,
    picture: &Picture,
) -> Vec<Cell<'static>> {
    let RouterAnswer { status, down_since, latencies_us } = router;
    let ours = if status.is_up() {
        format!("{} of {}", words::count(status.ours), words::count(status.desired))
    } else {
        "-".to_owned()
    };
    let queue = if status.in_flight > 0 {
        format!("{}+{}", status.queued, status.in_flight)
    } else {
        status.queued.to_string()
    };
    vec![
        Cell::from(status.name.to_string()),
        Cell::from(router_state(status, *down_since, now)),
        Cell::from(ours),
        Cell::from(queue),
        Cell::from(status.latency_us.map_or_else(|| "-".to_owned(), words::micros)),
        Cell::from(Span::styled(bars(latencies_us, columns), picture.style(Tint::Bars))),
    ]
}

fn draw_sensors(frame: &mut Frame, picture: &Picture, status: &Status, area: Rect) {
    let silent = status.faults.iter().filter(|fault| fault.kind == FaultKind::SensorSilent).count();
    let fresh = |sensor: &&SensorAnswer| {
        sensor.seen.last.is_some_and(|last| status.now.duration_since(last) <= HEARD)
    };
    let heard = status.sensors.values().filter(fresh).count();
    let follow = status.sensors.values().filter(|sensor| sensor.seen.follows).count();
    let summary = format!(
        "SENSORS  {}, {} heard in the last 2 minutes, {} silent, {} following the bans",
        words::counted(status.sensors.len(), "sensor"),
        words::count(heard),
        words::count(silent),
        words::count(follow)
    );
    let mut sensors: Vec<_> = status.sensors.iter().collect();
    // Those to look after first, then those with the latest news.
    sensors.sort_by_key(|(name, sensor)| {
        (!picture.is_faulty(name, FaultKind::is_sensors), std::cmp::Reverse(sensor.seen.last))
    });
    let rows = sensors.into_iter().skip(picture.scrolled[Pane::Sensors as usize]).map(|(name, sensor)| {
        let heard =
            sensor.seen.last.map_or_else(|| "not heard yet".to_owned(), |last| words::ago(last, status.now));
        let row = Row::new([name.to_string(), heard, words::counted(sensor.seen.offences, "offence")]);
        let bad = picture.is_faulty(name, FaultKind::is_sensors);
        if bad { row.style(picture.style(Tint::Bad)) } else { row }
    });
    let [title, table] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    frame.render_widget(Paragraph::new(summary).style(picture.heading(Pane::Sensors)), title);
    let widths = [Constraint::Max(30), Constraint::Length(16), Constraint::Fill(1)];
    frame.render_widget(Table::new(rows.collect::<Vec<_>>(), widths), table);
}

fn draw_bans(frame: &mut Frame, picture: &Picture, now: Timestamp, area: Rect) {
    let header = Row::new(["LATEST BANS", "ADDRESS", "JAIL", "SENSOR", "ENDS", "WHAT WAS SEEN"]);
    let rows =
        picture.latest.iter().skip(picture.scrolled[Pane::Bans as usize]).take(usize::from(area.height));
    // As wide as what is shown, within limits.
    let longest = |of: &dyn Fn(&Ban) -> usize, least: usize, most: usize| {
        let longest = picture.latest.iter().map(of).max().unwrap_or(0).clamp(least, most);
        Constraint::Length(u16::try_from(longest).unwrap_or(u16::MAX))
    };
    let widths = [
        Constraint::Length(11),
        longest(&|ban| words::prefix(ban.prefix).len(), 15, 39),
        longest(&|ban| ban.origin.jail().as_str().len(), 6, 16),
        longest(&|ban| ban.origin.sensor().as_str().len(), 6, 20),
        Constraint::Length(9),
        Constraint::Fill(1),
    ];
    let rows: Vec<Row> = rows
        .map(|ban| {
            let evidence = ban.evidence.last().map(|last| words::harmless(&last.text).into_owned());
            let row = Row::new([
                words::ago(ban.since, now),
                words::prefix(ban.prefix),
                ban.origin.jail().to_string(),
                ban.origin.sensor().to_string(),
                if ban.ended.is_some() { "over".to_owned() } else { words::until(ban.until, now) },
                evidence.unwrap_or_default(),
            ]);
            if ban.ended.is_some() { row.style(picture.style(Tint::Faint)) } else { row }
        })
        .collect();
    let table = Table::new(rows, widths).header(header.style(picture.heading(Pane::Bans)));
    frame.render_widget(table, area);
}

fn draw_help(frame: &mut Frame, area: Rect) {
    let lines = HELP.lines().count() as u16;
    let columns = HELP.lines().map(|line| line.chars().count()).max().unwrap_or(0) as u16;
    let block = ratatui::widgets::Block::bordered().title(" help ");
    let area = area.centered(Constraint::Max(columns + 2), Constraint::Max(lines + 2));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}

/// Bars for values, the latest at the right; as high as they are beside the highest.
fn bars(values: &[u64], columns: usize) -> String {
    let shown = &values[values.len().saturating_sub(columns)..];
    let highest = shown.iter().copied().max().unwrap_or(0).max(1);
    let bar = |value: &u64| {
        let height = (u128::from(*value) * BARS.len() as u128).div_ceil(u128::from(highest)) as usize;
        BARS[height.clamp(1, BARS.len()) - 1]
    };
    let empty = columns - shown.len();
    std::iter::repeat_n(' ', empty).chain(shown.iter().map(bar)).collect()
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::status::tests::{at, site, site_without_a_rule};
    use crate::cli::watch::feed::News;

    fn ban(host: u8, ended: bool) -> Ban {
        serde_json::from_value(serde_json::json!({
            "prefix": format!("192.0.2.{host}/32"), "since": at(9_990), "until": at(11_700), "jail": "ssh",
            "sensor": "web-1", "strikes": 1, "ended": ended.then(|| at(9_995)), "ended_by": null,
            "evidence": [{"time": at(9_990), "source": "x", "text": "Failed password for root\u{1b}[2J\u{9b}1m"}],
        }))
        .unwrap()
    }

    fn picture(routers: usize, sensors: usize, faults: bool) -> Picture {
        let mut picture = Picture::new(true);
        let mut status = site(routers, sensors, faults);
        status.rates.bans.by_second = vec![0, 1, 2, 3, 9, 0, 1];
        status.rates.bans.last_minute = 16;
        let latest = (1..=40).map(|host| ban(host, host == 2)).collect();
        picture.take(News::Now { status: Box::new(status), latest }, at(10_000));
        picture
    }

    fn shown(picture: &Picture, columns: u16, lines: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
        terminal.draw(|frame| draw(frame, picture, at(10_000))).unwrap();
        let buffer = terminal.backend().buffer();
        let row =
            |y: u16| (0..columns).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..lines).map(row).collect()
    }

    #[test]
    fn a_usual_site_shows_everything_on_80_by_24() {
        let screen = shown(&picture(3, 5, false), 80, 24);
        let text = screen.join("\n");
        assert!(screen[0].starts_with("Atalaya all is well  25,000 bans"), "{text}");
        assert!(screen[0].contains("Z  37 of 1,024 files open"), "{text}");
        assert!(text.contains("bans/s 1, 16 a minute") && text.contains('█'), "{text}");
        for expected in
            ["edge-2 up", "25,000 of 25,000", "1.2 ms", "5 sensors, 5 heard", "web-4", "192.0.2.1 "]
        {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(text.contains("in 28m") && text.contains("over") && text.contains("Failed"), "{text}");
        assert!(screen[23].starts_with("q quit"), "{text}");
    }

    #[test]
    fn nothing_panics_and_no_control_character_is_drawn_at_any_size() {
        for (routers, sensors, faults) in [(0, 0, false), (3, 5, true), (60, 300, true)] {
            let mut picture = picture(routers, sensors, faults);
            for lost in [None, Some((at(9_900), "no enforcer\u{1b}[2J answers".to_owned()))] {
                picture.lost = lost;
                picture.help = !picture.help;
                for (columns, lines) in
                    [(1, 1), (2, 9), (10, 3), (30, 10), (79, 5), (80, 16), (80, 24), (200, 60), (300, 2)]
                {
                    let screen = shown(&picture, columns, lines).join("");
                    assert!(!screen.contains(|c: char| c.is_control()), "{columns}x{lines}");
                }
            }
        }
        shown(&Picture::new(false), 10, 3);
    }

    #[test]
    fn faults_and_a_lost_enforcer_are_told_at_the_top() {
        let mut picture = picture(3, 12, true);
        let screen = shown(&picture, 80, 24);
        assert!(
            screen[0].contains("5 faults") && screen[1].starts_with("! router edge-0 for 16m"),
            "{screen:#?}"
        );
        picture.lost = Some((at(9_940), "no enforcer answers at /run/x".to_owned()));
        let screen = shown(&picture, 80, 24);
        assert!(screen[0].contains("NO ENFORCER ANSWERS for 1m"), "{screen:#?}");
        assert!(screen[1].starts_with("! no enforcer answers at /run/x"), "{screen:#?}");
    }

    #[test]
    fn a_router_that_drops_nothing_is_told_at_the_top_with_the_next_command() {
        let mut picture = picture(1, 1, false);
        let report = |status| News::Now { status: Box::new(status), latest: Vec::new() };
        let why = "the raw rule that uses list spammer is never reached: a rule before it takes all";
        picture.take(report(site_without_a_rule(3, why)), at(10_000));
        let screen = shown(&picture, 80, 24);
        assert!(screen[0].starts_with("Atalaya 1 fault"), "{screen:#?}");
        assert!(screen[1].starts_with("! router edge-0 for 4m 10s: drops nothing: the raw"), "{screen:#?}");
        assert!(screen[3].starts_with("  atalaya-enforcer router check edge-0  #"), "{screen:#?}");
        assert!(screen.iter().any(|line| line.starts_with("edge-0 not dropping ")), "{screen:#?}");
        // Where there is no room for all of it, the beginning is what counts.
        assert!(shown(&picture, 80, 8)[1].starts_with("! router edge-0 for 4m 10s: drops"), "{screen:#?}");
        let mut status = site(1, 1, false);
        status.looking = vec!["edge-0".parse().unwrap()];
        picture.take(report(status), at(10_000));
        let screen = shown(&picture, 80, 24);
        assert!(screen[0].starts_with("Atalaya looking at router edge-0  25,000 bans"), "{screen:#?}");
    }

    #[test]
    fn a_scrolled_pane_begins_further_down() {
        let mut picture = picture(60, 5, false);
        picture.scrolled = [20, 30, 0];
        let text = shown(&picture, 80, 40).join("\n");
        assert!(text.contains("edge-30 ") && !text.contains("edge-29 "), "{text}");
        assert!(text.contains("192.0.2.21 ") && !text.contains("192.0.2.20 "), "{text}");
    }

    #[test]
    fn bars_are_as_high_as_their_values_with_the_latest_at_the_right() {
        assert_eq!(bars(&[0, 1, 4, 8], 6), "  ▁▁▄█");
        assert_eq!(bars(&[9, 9, 1, u64::MAX], 2), "▁█");
        assert_eq!(bars(&[], 3), "   ");
    }
}
