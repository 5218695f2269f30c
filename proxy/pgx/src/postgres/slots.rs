//! Physical slots, one for each member, so that what a member lacks is not removed while it is
//! away, up to `max_slot_wal_keep_size`.

use pgx_control::ids::{Lsn, NodeId};

use super::Place;
use super::error::Error;
use super::session::{Session, literal};
use super::settings;

/// Keeps what the members may need of a server that is being promoted, until they have slots of
/// their own that do. One that had parted from it is rewound by the log since the last checkpoint
/// before that, which the first checkpoint of the new timeline would remove.
const PROMOTION: &str = "pgx_promotion";

/// `object_in_use`.
const IN_USE: &str = "55006";

/// Makes the slots of these members, other than this node, that are missing or have lost what they
/// were kept for; drops those of nodes that are not members.
///
/// A standby has them as well, since members follow it at once when it is promoted. Nobody uses
/// them until then, so they keep nothing.
pub(super) fn keep(
    place: &Place,
    session: &Session,
    members: &[(NodeId, Option<Lsn>)],
) -> Result<(), Error> {
    let others = members.iter().filter(|(node, _)| *node != place.node);
    let wanted: Vec<_> = others.map(|(node, end)| (settings::slot(*node), *end)).collect();
    let rows = session.ask(
        "SELECT slot_name, active, \
         CASE WHEN restart_lsn IS NULL THEN NOT pg_is_in_recovery() \
         ELSE wal_status = 'lost' OR pg_is_in_recovery() END \
         FROM pg_replication_slots \
         WHERE slot_type = 'physical' AND slot_name LIKE 'pgx\\_node\\_%'",
    )?;
    let mut known = Vec::new();
    for row in rows {
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let (name, is_active, is_lost) = (text(0), text(1) == "t", text(2) == "t");
        let is_wanted = wanted.iter().any(|(wanted, _)| *wanted == name);
        if !is_active && (!is_wanted || is_lost) {
            match session.ask(&format!("SELECT pg_drop_replication_slot({})", literal(&name))) {
                // Somebody has just come to use it: then it keeps what he needs.
                Err(Error::Refused { code, .. }) if code == IN_USE => known.push(name),
                done => drop(done?),
            }
        } else {
            known.push(name);
        }
    }
    for (name, end) in &wanted {
        let slot = literal(name);
        if !known.contains(name) {
            let made = session.value(&format!(
                "SELECT pg_copy_physical_replication_slot(slot_name, {slot}) \
                 FROM pg_replication_slots WHERE slot_name = '{PROMOTION}' \
                 AND restart_lsn IS NOT NULL AND wal_status <> 'lost' AND NOT pg_is_in_recovery()"
            ))?;
            if made.is_empty() {
                session.ask(&format!(
                    "SELECT pg_create_physical_replication_slot({slot}, NOT pg_is_in_recovery())"
                ))?;
            }
        }
        if let Some(end) = end {
            // Neither further than this server has replayed, nor back.
            session.ask(&format!(
                "SELECT pg_replication_slot_advance(slot_name, e) FROM pg_replication_slots, \
                 LEAST('{end}'::pg_lsn, pg_last_wal_replay_lsn()) AS e WHERE slot_name = {slot} \
                 AND pg_is_in_recovery() AND NOT active AND restart_lsn < e"
            ))?;
        }
    }
    // One that is active and keeps nothing yet has just been connected to.
    session.ask(&format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = '{PROMOTION}' AND NOT active AND (pg_is_in_recovery() OR NOT EXISTS \
         (SELECT FROM pg_replication_slots WHERE slot_type = 'physical' \
         AND slot_name LIKE 'pgx\\_node\\_%' AND restart_lsn IS NULL))"
    ))?;
    Ok(())
}

/// Makes slots for these members, on a standby that is promoted next, and keeps what they may need.
pub(super) fn prepare(place: &Place, session: &Session, members: &[NodeId]) -> Result<(), Error> {
    let members: Vec<_> = members.iter().map(|member| (*member, None)).collect();
    keep(place, session, &members)?;
    let sql = format!(
        "SELECT pg_create_physical_replication_slot('{PROMOTION}', true) WHERE pg_is_in_recovery()"
    );
    session.ask(&sql).map(drop)
}
