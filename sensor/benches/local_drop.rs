//! What a packet costs in the XDP program of the local drop, with no, 1,000 and 1,000,000 bans: nanoseconds as
//! the kernel itself measures them over many runs of one packet, in the best round of some, since others use
//! the machine too. The program is the same in every profile. Needs root. `cargo bench -p atalaya-sensor --bench local_drop`.

#![cfg_attr(
    feature = "kernel",
    expect(clippy::unwrap_used, reason = "a bench that cannot set its scene fails")
)]

#[cfg(not(feature = "kernel"))]
fn main() {
    println!("a sensor without the kernel's side drops nothing");
}

#[cfg(feature = "kernel")]
fn main() {
    bench::run();
}

#[cfg(feature = "kernel")]
mod bench {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use atalaya_sensor::kernel::maps::Maps;
    use atalaya_sensor::loader::local_drop::OBJECT;
    use atalaya_sensor::loader::object::{Kit, Object};
    use atalaya_sensor::pinned::bans::Bans;
    use atalaya_sensor_ebpf::local_drop::{
        ALLOW_MAP, BANS_MAP, DROP_PROGRAM, FOR_EVER, KINDS_MAP, PREFIXES_MAP, TOTALS_MAP,
    };
    use aya::programs::{TestRun as _, TestRunOptions, Xdp};
    use ipnet::IpNet;

    const BANS: [u32; 3] = [0, 1_000, 1_000_000];
    /// Runs of one packet at a time: too short for others to come in between in every round. The kernel takes
    /// some milliseconds to begin each.
    const REPEAT: u32 = 10_000;
    const ROUNDS: usize = 20;

    pub fn run() {
        for bans in BANS {
            let (mut object, mut maps) = load();
            let start = std::time::Instant::now();
            for number in 0..bans {
                maps.put(banned(number).into(), FOR_EVER).unwrap();
            }
            let filled = start.elapsed();
            // As on a host that follows a fleet: some networks, and some that are spared.
            for number in 0..bans.min(100) {
                maps.put(IpNet::new(Ipv4Addr::new(11, number as u8, 7, 0).into(), 24).unwrap(), FOR_EVER)
                    .unwrap();
            }
            let spared = (0..20_u8).map(|host| IpNet::from(IpAddr::from([192, 168, 7, host]))).collect();
            maps.allow(&spared, false).unwrap();
            println!("{bans} bans:");
            if bans > 0 {
                println!(
                    "  putting one into the kernel   {:6.0} ns",
                    filled.as_secs_f64() * 1e9 / f64::from(bans)
                );
            }
            let stranger = IpAddr::from([203, 0, 113, 9]);
            let stranger_v6 = IpAddr::from("2001:db8::9".parse::<Ipv6Addr>().unwrap());
            told("passed, IPv4", best(&mut object, stranger));
            told("passed, IPv6", best(&mut object, stranger_v6));
            if bans > 0 {
                told("dropped, one sender", best(&mut object, banned(1)));
                told("dropped, by its network", best(&mut object, Ipv4Addr::new(11, 1, 7, 9).into()));
            }
        }
    }

    fn told(what: &str, each: Duration) {
        let nanoseconds = each.as_secs_f64() * 1e9;
        println!("  {what:28}  {nanoseconds:6.1} ns, {:5.1} M packets/s a core", 1e3 / nanoseconds);
    }

    fn load() -> (Object, Bans) {
        let load = Kit::new().load(OBJECT, |loader| {
            loader.map_max_entries(BANS_MAP, 1_000_000).map_max_entries(PREFIXES_MAP, 1_000_000);
        });
        let mut object = load.unwrap();
        object.program::<Xdp>(DROP_PROGRAM).unwrap().load().unwrap();
        let maps = object.maps(&[BANS_MAP, PREFIXES_MAP, ALLOW_MAP, KINDS_MAP, TOTALS_MAP]).unwrap();
        (object, Bans::new(Maps::new(maps)).unwrap())
    }

    fn best(object: &mut Object, source: IpAddr) -> Duration {
        (0..ROUNDS).map(|_| time(object, source, REPEAT)).min().unwrap()
    }

    /// The mean of so many runs.
    fn time(object: &mut Object, source: IpAddr, repeat: u32) -> Duration {
        let packet = packet(source);
        let program: &mut Xdp = object.program(DROP_PROGRAM).unwrap();
        let options = TestRunOptions { data_in: Some(&packet), repeat, ..TestRunOptions::new() };
        program.test_run(options).unwrap().duration
    }

    fn banned(number: u32) -> IpAddr {
        // Each number another address of 12.0.0.0/8, for the factor is odd.
        Ipv4Addr::from(0x0C00_0000 | (number.wrapping_mul(0x009E_3779) & 0x00FF_FFFF)).into()
    }

    fn packet(source: IpAddr) -> Vec<u8> {
        let mut bytes = vec![2; 12];
        match source {
            IpAddr::V4(source) => {
                bytes.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
                bytes.extend(source.octets());
                bytes.extend([192, 0, 2, 1]);
            }
            IpAddr::V6(source) => {
                bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
                bytes.extend(source.octets());
                bytes.extend([0; 16]);
            }
        }
        bytes.resize(bytes.len() + 20, 0);
        bytes
    }
}
