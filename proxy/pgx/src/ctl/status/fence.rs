//! How the fence looks to a person.

use pgx_control::admin::{FenceStatus, WordStatus};

/// Adds how far the gate is open, and by which words.
pub(super) fn words(fence: &FenceStatus, line: &mut dyn FnMut(&str, String)) {
    let open = match &*fence.gate {
        "unknown" => "NOBODY KNOWS".to_owned(),
        gate => gate.to_owned(),
    };
    line("fence", format!("port {} by {}: {open}", fence.port, fence.means));
    let mut word = |name: &str, word: &Option<WordStatus>| {
        if let Some(WordStatus { epoch, remaining_ms, gate }) = word {
            line(name, format!("{gate} in epoch {epoch}, {remaining_ms} ms left"));
        }
    };
    word("  primary's word", &fence.primary);
    word("  member's word", &fence.member);
    if let Some(epoch) = fence.fenced_up_to {
        let back = format!("'pgx ctl unfence --epoch {epoch}' takes it back");
        line("  FENCED", format!("by an operator, up to epoch {epoch}; {back}"));
    }
}

/// Adds what there is to say of the fence.
pub(super) fn lines(fence: &FenceStatus, line: &mut dyn FnMut(&str, String)) {
    words(fence, line);
    if !fence.cause.is_empty() {
        line("fence cause", fence.cause.clone());
    }
    if !fence.fenced.is_empty() {
        let hosts = fence.fenced.join(" ");
        line("  keeps off", format!("PostgreSQL at {hosts}: its leases were taken back"));
    }
    for place in &fence.places {
        let hook = |name: &str| if name.is_empty() { "OPEN".to_owned() } else { name.to_owned() };
        let trial = match &*place.trial {
            "seen" => "tried out".to_owned(),
            "missed" => "A PACKET PASSED".to_owned(),
            why => format!("not tried out: {why}"),
        };
        let hooks = format!("in {}, out {}", hook(&place.incoming), hook(&place.outgoing));
        line(&format!("  {}", place.at), format!("{hooks}, {trial}"));
        if !place.cause.is_empty() {
            line("", place.cause.clone());
        }
    }
    for rehearsal in fence.rehearsals.iter().filter(|one| !one.failure.is_empty()) {
        line(&format!("  no {}", rehearsal.hook), rehearsal.failure.clone());
    }
    for (verdict, packets) in &fence.packets {
        line(&format!("  {verdict}"), format!("{packets} packets"));
    }
}
