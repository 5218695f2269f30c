//! What processes and the machine have used, as the kernel counts it.

use std::time::Duration;

use anyhow::Context;

/// Clock ticks a second in /proc, fixed by the kernel's interface on Linux.
pub(super) const TICKS_PER_S: f64 = 100.0;

/// How long the machine is watched before anything is measured.
const LOOK: Duration = Duration::from_secs(3);

/// Nanoseconds of CPU that all threads of a process have used.
pub(super) fn process_ns(process: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        sum += text.split_whitespace().next().context("schedstat is empty")?.parse::<u64>()?;
    }
    Ok(sum)
}

/// Seconds of CPU that all processes, interrupts included, have used: not only ours.
pub(super) fn machine_s() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("stat is empty")?;
    let fields: Result<Vec<u32>, _> = line.split_whitespace().skip(1).map(str::parse).collect();
    let fields = fields?;
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are within the first two.
    anyhow::ensure!(fields.len() >= 7, "stat has no softirq: {line}");
    let busy = [0, 1, 2, 5, 6].map(|index| f64::from(fields[index]));
    Ok(busy.iter().sum::<f64>() / TICKS_PER_S)
}

/// Kilobytes of a process's memory that are resident.
pub(super) fn resident_kb(process: u32) -> anyhow::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let value = line.and_then(|rest| rest.split_whitespace().next());
    Ok(value.context("status has no VmRSS")?.parse()?)
}

/// Tells how busy the machine is with other work: what is measured then is to be read with care.
pub(super) fn tell_others() -> anyhow::Result<()> {
    let before = machine_s()?;
    std::thread::sleep(LOOK);
    let used = (machine_s()? - before) / LOOK.as_secs_f64();
    let processors = std::thread::available_parallelism()?;
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load = load.split_whitespace().next().unwrap_or_default();
    println!("before the start, others used {used:.2} of {processors} processors; load {load}");
    Ok(())
}
