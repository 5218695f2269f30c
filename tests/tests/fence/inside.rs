//! What this program does when it is started inside of a host: the test writer of leases, and the
//! capture of packets.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pgx_bpf::{BPFFS, Gate, Keeper, Nftables, PIN_BASE, Pins, Role};
use pgx_tests::lab::Lab;
use pgx_tests::tap::boot_ns;

use crate::capture;

const MARK: &str = "inside";

/// Serves if the program was started inside of a host, and says whether it was.
pub(crate) fn dispatch() -> anyhow::Result<bool> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match &words[..] {
        [mark, words @ ..] if mark == MARK => serve(words).map(|()| true),
        _ => Ok(false),
    }
}

/// A command that does this inside of a host.
pub(crate) fn command(lab: &Lab, host: &str, words: &[&str]) -> anyhow::Result<Command> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("the path of this program is not UTF-8")?;
    // Before the load that it watches: a capture that falls behind loses packets.
    let first = ["chrt", "--fifo", "10", program, MARK];
    lab.host(host)?.command(&[&first[..], words].concat())
}

/// Does it, and returns what it printed.
pub(crate) fn run(lab: &Lab, host: &str, words: &[&str]) -> anyhow::Result<String> {
    let output = command(lab, host, words)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words:?} in {host}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Opens the gate of `n1` for an epoch until this time.
pub(crate) fn lease(lab: &Lab, epoch: u64, until_ns: u64) -> anyhow::Result<()> {
    run(lab, "n1", &["lease", &epoch.to_string(), &until_ns.to_string()]).map(drop)
}

fn serve(words: &[String]) -> anyhow::Result<()> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let pins = || Pins::open(Path::new(BPFFS), PIN_BASE);
    match words[..] {
        ["lease", epoch, until_ns] => {
            let (epoch, until_ns) = (epoch.parse()?, until_ns.parse()?);
            Ok(Keeper::open(&pins()?)?.lease(Role::Primary, epoch, until_ns, Gate::Open)?)
        }
        ["close", epoch] => Ok(Keeper::open(&pins()?)?.close(epoch.parse()?)?),
        // As a host loses them: nobody has detached anything before.
        ["remove"] => {
            let base = Path::new(BPFFS).join(PIN_BASE);
            if base.exists() {
                pins()?.remove()?;
            }
            let _ = Nftables::remove();
            Ok(())
        }
        ["drip", address, until_ns] => drip(address, until_ns.parse()?),
        ["capture", port, from_ns, until_ns] => {
            capture::serve(port.parse()?, from_ns.parse()?, until_ns.parse()?)
        }
        _ => bail!("{words:?} is nothing to do inside of a host"),
    }
}

/// A client that sends a byte each millisecond and waits for no answer, until it is told of its
/// end.
fn drip(address: &str, until_ns: u64) -> anyhow::Result<()> {
    let mut server = TcpStream::connect(address)?;
    server.set_nodelay(true)?;
    // The length of a start-up packet that never gets whole: PostgreSQL reads on and says nothing.
    server.write_all(&9_000_u32.to_be_bytes())?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", capture::READY)?;
    out.flush()?;
    while boot_ns()? < until_ns {
        let mut fds = [PollFd::new(server.as_fd(), PollFlags::POLLIN)];
        let is_told = match poll(&mut fds, PollTimeout::from(1_u8)) {
            // The process was stopped and goes on.
            Err(Errno::EINTR) => continue,
            told => told? > 0,
        };
        if is_told || server.write_all(&[0]).is_err() {
            return Ok(());
        }
    }
    bail!("nobody has told this client")
}
