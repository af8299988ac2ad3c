//! What keeps the vCPUs' CPUs slow, on CPUs 4 and 12.

use super::*;

fn seen(code: Code, change: impl FnOnce(&mut Fixture)) -> Severity {
    let report = Report::new(&facts(change), Some(&config("1G", 2048)));
    let finding = report.findings.iter().find(|finding| finding.code == code);
    finding.map_or_else(|| panic!("no {code}"), |finding| finding.severity)
}

fn scaled(host: &mut Fixture, cpu: u32, driver: &str, governor: &str) {
    host.cpu(cpu, "cpufreq/scaling_driver", driver);
    host.cpu(cpu, "cpufreq/scaling_governor", governor);
}

#[test]
fn a_governor_that_keeps_cpus_slow() {
    for driver in ["acpi-cpufreq", "intel_cpufreq", "amd-pstate"] {
        let slow = fault(Code::CpuGovernor, |host| scaled(host, 12, driver, "powersave"));
        warns(&slow, "CPUs 12: governor powersave", "scaling_governor", "cpupower -c 12 ");
    }
}

/// Their `powersave` follows the load, and is what distributions set.
#[test]
fn powersave_of_cpus_that_choose_for_themselves_is_sound() {
    for driver in ["intel_pstate", "amd-pstate-epp"] {
        let usual = seen(Code::CpuGovernor, |host| {
            scaled(host, 4, driver, "powersave");
            host.cpu(4, "cpufreq/energy_performance_preference", "balance_performance");
        });
        assert_eq!(usual, Severity::Pass);
    }
}

#[test]
fn a_preference_for_power_looks_sound_and_is_not() {
    let slow = fault(Code::CpuGovernor, |host| {
        scaled(host, 4, "amd-pstate-epp", "powersave");
        host.cpu(4, "cpufreq/energy_performance_preference", "power");
    });
    warns(&slow, "CPUs 4: amd-pstate-epp prefers `power`", "cpufreq", "performance");
}

#[test]
fn a_slow_cpu_of_the_host_is_not_the_machines() {
    let of_host = seen(Code::CpuGovernor, |host| scaled(host, 0, "acpi-cpufreq", "powersave"));
    assert_eq!(of_host, Severity::Pass);
    // A policy has several CPUs, the first one's files speak for all.
    let shared = seen(Code::CpuGovernor, |host| {
        scaled(host, 0, "acpi-cpufreq", "powersave");
        host.cpu(0, "cpufreq/affected_cpus", "0 4 8 12");
    });
    assert_eq!(shared, Severity::Warn);
}

#[test]
fn frequencies_that_nobody_sees_are_unknown() {
    let unseen = seen(Code::CpuGovernor, |host| {
        host.remove("/sys/devices/system/cpu/cpu12/cpufreq");
    });
    assert_eq!(unseen, Severity::Unknown);
    let unseen = seen(Code::CpuIdleDeep, |host| {
        host.remove("/sys/devices/system/cpu/cpuidle");
    });
    assert_eq!(unseen, Severity::Unknown);
}

fn c6(host: &mut Fixture, cpu: u32) {
    host.cpu(cpu, "cpuidle/state3/name", "C6");
    host.cpu(cpu, "cpuidle/state3/latency", "133");
    host.cpu(cpu, "cpuidle/state3/disable", "0");
}

#[test]
fn deep_sleep_is_told_with_the_drivers_own_parameter() {
    let deep = fault(Code::CpuIdleDeep, |host| c6(host, 12));
    warns(&deep, "CPUs 12 may go to C6 (133 us)", "cpuidle", "`cpupower -c 12 idle-set -D 100`");
    assert!(deep.remedy.iter().any(|step| step.contains("intel_idle.max_cstate=1")), "{deep:?}");
    // intel_idle's limit on the command line looks sound, and is nobody's when ACPI's driver runs.
    let deep = fault(Code::CpuIdleDeep, |host| {
        c6(host, 12);
        host.file("/proc/cmdline", "quiet intel_iommu=on iommu=pt intel_idle.max_cstate=1");
        host.file("/sys/devices/system/cpu/cpuidle/current_driver", "acpi_idle");
    });
    assert!(deep.remedy.iter().any(|step| step.contains("processor.max_cstate=1")), "{deep:?}");
}

#[test]
fn what_keeps_cpus_from_deep_sleep_is_seen() {
    let with = |change: &dyn Fn(&mut Fixture)| {
        seen(Code::CpuIdleDeep, |host| {
            c6(host, 4);
            change(host);
        })
    };
    assert_eq!(with(&|_| ()), Severity::Warn);
    let qos = "power/pm_qos_resume_latency_us";
    let dma = |us: u32| {
        move |host: &mut Fixture| {
            drop(host.bytes("/dev/cpu_dma_latency", us.to_le_bytes().to_vec()).clone())
        }
    };
    assert_eq!(
        with(&|host| {
            host.cpu(4, "cpuidle/state3/disable", "1");
        }),
        Severity::Pass
    );
    assert_eq!(
        with(&|host| {
            host.cpu(4, qos, "99");
        }),
        Severity::Pass
    );
    assert_eq!(
        with(&|host| {
            host.cpu(4, qos, "n/a");
        }),
        Severity::Pass
    );
    assert_eq!(with(&dma(5)), Severity::Pass);
    // These look as if they did: no limit, one that is too high, and another CPU's.
    assert_eq!(
        with(&|host| {
            host.cpu(4, qos, "0");
        }),
        Severity::Warn
    );
    assert_eq!(
        with(&|host| {
            host.cpu(4, qos, "200");
        }),
        Severity::Warn
    );
    assert_eq!(
        with(&|host| {
            host.cpu(5, "cpuidle/state3/disable", "1");
        }),
        Severity::Warn
    );
    assert_eq!(with(&dma(2_000_000_000)), Severity::Warn);
}

#[test]
fn kinds_of_cores_that_are_mixed_are_told() {
    let intel = |core: &'static str, atom: &'static str| {
        move |host: &mut Fixture| {
            host.file("/sys/devices/cpu_core/cpus", core);
            host.file("/sys/devices/cpu_atom/cpus", atom);
        }
    };
    let mixed = fault(Code::CpuKindsMixed, intel("0-7", "8-15"));
    let said = "CPUs 4 are performance cores, CPUs 12 are efficiency cores";
    warns(&mixed, said, "cpu_{core,atom}", "placement.cpus");
    assert_eq!(seen(Code::CpuKindsMixed, intel("0-3,8-11", "4-7,12-15")), Severity::Pass);
    // Lists that leave CPUs out tell nothing of them; the frequencies do.
    assert_eq!(seen(Code::CpuKindsMixed, intel("0-7", "8-11")), Severity::Pass);
}

#[test]
fn kinds_without_a_name_are_told_by_their_frequencies() {
    let compact = |khz: &'static str| {
        move |host: &mut Fixture| {
            for cpu in 0..16 {
                host.cpu(cpu, "topology/thread_siblings_list", &cpu.to_string());
            }
            for cpu in 8..16 {
                host.cpu(cpu, "cpufreq/cpuinfo_max_freq", khz);
            }
        }
    };
    let mixed = fault(Code::CpuKindsMixed, compact("2400000"));
    warns(&mixed, "CPUs 12 are cores of up to 2.4 GHz", "cpuinfo_max_freq", "of one kind");
    // The best cores of one kind are boosted a little higher.
    assert_eq!(seen(Code::CpuKindsMixed, compact("3300000")), Severity::Pass);
    let unseen = seen(Code::CpuKindsMixed, |host| {
        host.remove("/sys/devices/system/cpu/cpu5/cpufreq/cpuinfo_max_freq");
    });
    assert_eq!(unseen, Severity::Unknown);
}
