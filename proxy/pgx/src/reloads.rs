//! What is read again while pgx runs: at SIGHUP, and when an operator asks for it.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, info};

use crate::config;
use crate::peer::PeerSet;
use crate::peer::certificates::Certificates;
use crate::served::Served;

/// Everything that can be read again.
pub(crate) struct Reloads {
    /// The certificates of the links to other nodes.
    control: Option<(config::Control, Arc<PeerSet>)>,
    /// The proxy's configuration, with the files that it names.
    served: Option<Arc<Served>>,
    /// One reads after the other, so that what is in force is what was read last.
    turn: Mutex<()>,
}

impl Reloads {
    pub(crate) fn new(
        control: Option<(config::Control, Arc<PeerSet>)>,
        served: Option<Arc<Served>>,
    ) -> Arc<Self> {
        Arc::new(Self { control, served, turn: Mutex::default() })
    }

    /// Reads it where nobody waits for files and names. Of what is no good, what was in force
    /// stays.
    ///
    /// # Errors
    /// What is no good, and why.
    pub(crate) async fn read_again(self: Arc<Self>) -> Result<Vec<String>, String> {
        let done = tokio::task::spawn_blocking(move || self.read()).await;
        done.unwrap_or_else(|error| Err(format!("it ended by a panic: {error}")))
    }

    fn read(&self) -> Result<Vec<String>, String> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut done = Vec::new();
        let mut problems = Vec::new();
        if let Some((control, peers)) = &self.control {
            match certificates(control, peers) {
                Ok(()) => {
                    info!("certificates read again; new connections use them");
                    done.push("the certificates of this node were read again".to_owned());
                }
                Err(problem) => {
                    error!(problem, "certificates not reloaded; the old ones stay in use");
                    problems.push(format!("certificates: {problem}"));
                }
            }
        }
        if let Some(served) = &self.served {
            match served.reload() {
                Ok(()) => {
                    info!("the proxy's configuration was read again");
                    done.push("the proxy's configuration was read again".to_owned());
                }
                Err(problem) => {
                    error!(
                        problem,
                        "the proxy's configuration was not read again; the old one stays"
                    );
                    problems.push(problem);
                }
            }
        }
        if problems.is_empty() { Ok(done) } else { Err(problems.join("\n")) }
    }
}

fn certificates(control: &config::Control, peers: &PeerSet) -> Result<(), String> {
    let certificates = Certificates::load(control).map_err(|error| error.to_string())?;
    peers.reload(certificates).map_err(|error| error.to_string())
}
