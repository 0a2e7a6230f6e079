//! The metric families of one host: what a fleet's series are called, which labels are their own, and how their values
//! move. [`crate::population`] turns this table into series.

use Kind::{Constant, CpuSeconds, IdleCounter, IntegerCounter, Noise, PageGauge, SmallGauge};
use Source::{Application, Container, Node};

/// How the value of a series moves. The shares among the 500 series of a host are those of a measured production mix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Never changes: sizes, limits, `info` and `up`.
    Constant,
    /// A counter of rare events.
    IdleCounter,
    /// A counter of whole things that moves at nearly every scrape.
    IntegerCounter,
    /// A counter of seconds in hundredths, as the kernel counts CPU time.
    CpuSeconds,
    /// Bytes in whole pages, up and down.
    PageGauge,
    /// A small whole number, up and down.
    SmallGauge,
    /// All 52 bits of the mantissa are random.
    Noise,
}

/// What is scraped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// node_exporter.
    Node,
    /// cAdvisor; the first own label must be `container`.
    Container,
    /// An instrumented HTTP service.
    Application,
}

impl Source {
    pub(crate) fn job(self) -> &'static str {
        match self {
            Node => "node-exporter",
            Container => "kubelet-cadvisor",
            Application => "application",
        }
    }
}

/// Series of one metric name and kind on a host: one for each combination of the values of its own labels.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    pub(crate) source: Source,
    pub(crate) kind: Kind,
    own: &'static [OwnLabel],
}

type OwnLabel = (&'static str, &'static [&'static str]);

impl Family {
    /// Number of series.
    pub(crate) fn series(&self) -> usize {
        self.own.iter().map(|(_, values)| values.len()).product()
    }

    /// Which value of own label number `label` combination number `choice` has.
    pub(crate) fn own_index(&self, choice: usize, label: usize) -> usize {
        let stride: usize = self.own[label + 1..].iter().map(|(_, values)| values.len()).product();
        choice / stride % self.own[label].1.len()
    }

    /// The own labels of combination number `choice`.
    pub(crate) fn own_choice(&self, choice: usize) -> impl Iterator<Item = (&'static str, &'static str)> {
        let picks = move |(label, (name, values)): (usize, &OwnLabel)| (*name, values[self.own_index(choice, label)]);
        self.own.iter().enumerate().map(picks)
    }
}

const fn family(name: &'static str, source: Source, kind: Kind, own: &'static [OwnLabel]) -> Family {
    Family {
        name,
        source,
        kind,
        own,
    }
}

/// The containers of a host.
pub(crate) const CONTAINERS: &[&str] = &[
    "checkout-api",
    "catalog-search",
    "payment-gateway",
    "session-cache",
    "order-worker",
    "email-sender",
    "image-resizer",
    "web-frontend",
    "fraud-detector",
    "audit-log",
];

const CPU: OwnLabel = ("cpu", &["0", "1", "2", "3", "4", "5", "6"]);
const DISK: OwnLabel = ("device", &["nvme0n1", "sda", "sdb"]);
const NIC: OwnLabel = ("device", &["docker0", "eth0", "eth1", "lo"]);
const MOUNT: OwnLabel = ("mountpoint", &["/", "/boot/efi", "/var/lib/containerd", "/var/log"]);
const CONTAINER: OwnLabel = ("container", CONTAINERS);
const LE: OwnLabel = (
    "le",
    &[
        "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "+Inf",
    ],
);
const HANDLER: OwnLabel = (
    "handler",
    &["/api/v1/cart", "/api/v1/checkout", "/api/v1/items", "/healthz"],
);
const POOL: OwnLabel = ("pool", &["orders", "replica", "sessions"]);

/// The families of one host, 500 series together.
pub(crate) const HOST_FAMILIES: &[Family] = &[
    // node_exporter.
    family(
        "node_cpu_seconds_total",
        Node,
        CpuSeconds,
        &[CPU, ("mode", &["idle", "iowait", "softirq", "system", "user"])],
    ),
    family(
        "node_cpu_seconds_total",
        Node,
        IdleCounter,
        &[CPU, ("mode", &["irq", "nice", "steal"])],
    ),
    family("node_disk_reads_completed_total", Node, IntegerCounter, &[DISK]),
    family("node_disk_writes_completed_total", Node, IntegerCounter, &[DISK]),
    family("node_disk_read_bytes_total", Node, IntegerCounter, &[DISK]),
    family("node_disk_written_bytes_total", Node, IntegerCounter, &[DISK]),
    family("node_disk_io_time_seconds_total", Node, CpuSeconds, &[DISK]),
    family("node_network_receive_bytes_total", Node, IntegerCounter, &[NIC]),
    family("node_network_transmit_bytes_total", Node, IntegerCounter, &[NIC]),
    family("node_network_receive_packets_total", Node, IntegerCounter, &[NIC]),
    family("node_network_transmit_packets_total", Node, IntegerCounter, &[NIC]),
    family("node_network_receive_errs_total", Node, IdleCounter, &[NIC]),
    family("node_network_receive_drop_total", Node, IdleCounter, &[NIC]),
    family("node_network_transmit_errs_total", Node, IdleCounter, &[NIC]),
    family("node_network_transmit_drop_total", Node, IdleCounter, &[NIC]),
    family("node_filesystem_size_bytes", Node, Constant, &[MOUNT]),
    family("node_filesystem_files", Node, Constant, &[MOUNT]),
    family("node_filesystem_readonly", Node, Constant, &[MOUNT]),
    family("node_filesystem_device_error", Node, Constant, &[MOUNT]),
    family("node_filesystem_avail_bytes", Node, PageGauge, &[MOUNT]),
    family("node_filesystem_free_bytes", Node, PageGauge, &[MOUNT]),
    family("node_memory_MemTotal_bytes", Node, Constant, &[]),
    family("node_memory_SwapTotal_bytes", Node, Constant, &[]),
    family("node_memory_HugePages_Total", Node, Constant, &[]),
    family("node_memory_Hugepagesize_bytes", Node, Constant, &[]),
    family("node_memory_VmallocTotal_bytes", Node, Constant, &[]),
    family("node_memory_CommitLimit_bytes", Node, Constant, &[]),
    family("node_memory_MemFree_bytes", Node, PageGauge, &[]),
    family("node_memory_MemAvailable_bytes", Node, PageGauge, &[]),
    family("node_memory_Cached_bytes", Node, PageGauge, &[]),
    family("node_memory_Buffers_bytes", Node, PageGauge, &[]),
    family("node_memory_Active_bytes", Node, PageGauge, &[]),
    family("node_memory_Inactive_bytes", Node, PageGauge, &[]),
    family("node_memory_Dirty_bytes", Node, PageGauge, &[]),
    family("node_memory_Slab_bytes", Node, PageGauge, &[]),
    family("node_memory_AnonPages_bytes", Node, PageGauge, &[]),
    family("node_memory_Mapped_bytes", Node, PageGauge, &[]),
    family("node_network_info", Node, Constant, &[NIC]),
    family("node_network_up", Node, Constant, &[NIC]),
    family("node_network_mtu_bytes", Node, Constant, &[NIC]),
    family("node_network_speed_bytes", Node, Constant, &[NIC]),
    family("node_cpu_info", Node, Constant, &[CPU]),
    family("node_cpu_frequency_max_hertz", Node, Constant, &[CPU]),
    family("node_boot_time_seconds", Node, Constant, &[]),
    family("node_uname_info", Node, Constant, &[]),
    family("node_exporter_build_info", Node, Constant, &[]),
    family("node_os_info", Node, Constant, &[]),
    family("up", Node, Constant, &[]),
    family("node_cpu_scaling_frequency_hertz", Node, Noise, &[CPU]),
    family("node_timex_offset_seconds", Node, Noise, &[]),
    family("node_timex_frequency_adjustment_ratio", Node, Noise, &[]),
    family("node_time_seconds", Node, Noise, &[]),
    family("node_procs_running", Node, SmallGauge, &[]),
    family("node_procs_blocked", Node, SmallGauge, &[]),
    family("node_load1", Node, SmallGauge, &[]),
    family("node_load5", Node, SmallGauge, &[]),
    family("node_load15", Node, SmallGauge, &[]),
    family("node_sockstat_TCP_inuse", Node, SmallGauge, &[]),
    family("node_sockstat_TCP_tw", Node, SmallGauge, &[]),
    family("node_filefd_allocated", Node, SmallGauge, &[]),
    family("node_vmstat_pgfault", Node, IntegerCounter, &[]),
    family("node_vmstat_pgmajfault", Node, IntegerCounter, &[]),
    family("node_vmstat_pgpgin", Node, IntegerCounter, &[]),
    family("node_vmstat_pgpgout", Node, IntegerCounter, &[]),
    family("node_context_switches_total", Node, IntegerCounter, &[]),
    family("node_intr_total", Node, IntegerCounter, &[]),
    family("node_forks_total", Node, IntegerCounter, &[]),
    family("node_netstat_Tcp_InSegs", Node, IntegerCounter, &[]),
    family("node_netstat_Tcp_OutSegs", Node, IntegerCounter, &[]),
    family("node_netstat_IpExt_InOctets", Node, IntegerCounter, &[]),
    family("node_netstat_IpExt_OutOctets", Node, IntegerCounter, &[]),
    family("node_softnet_processed_total", Node, IntegerCounter, &[CPU]),
    family("node_schedstat_timeslices_total", Node, IntegerCounter, &[CPU]),
    family("node_interrupts_total", Node, IntegerCounter, &[CPU]),
    family("node_netstat_TcpExt_ListenDrops", Node, IdleCounter, &[]),
    family("node_netstat_TcpExt_ListenOverflows", Node, IdleCounter, &[]),
    // cAdvisor.
    family("container_cpu_usage_seconds_total", Container, Noise, &[CONTAINER]),
    family("container_cpu_user_seconds_total", Container, Noise, &[CONTAINER]),
    family("container_cpu_system_seconds_total", Container, Noise, &[CONTAINER]),
    family("container_memory_working_set_bytes", Container, PageGauge, &[CONTAINER]),
    family(
        "container_fs_reads_bytes_total",
        Container,
        IntegerCounter,
        &[CONTAINER],
    ),
    family(
        "container_fs_writes_bytes_total",
        Container,
        IntegerCounter,
        &[CONTAINER],
    ),
    family(
        "container_network_receive_bytes_total",
        Container,
        IntegerCounter,
        &[CONTAINER],
    ),
    family(
        "container_network_transmit_bytes_total",
        Container,
        IntegerCounter,
        &[CONTAINER],
    ),
    family(
        "container_cpu_cfs_periods_total",
        Container,
        IntegerCounter,
        &[CONTAINER],
    ),
    family("container_spec_memory_limit_bytes", Container, Constant, &[CONTAINER]),
    family(
        "container_spec_memory_swap_limit_bytes",
        Container,
        Constant,
        &[CONTAINER],
    ),
    family("container_spec_cpu_shares", Container, Constant, &[CONTAINER]),
    family("container_spec_cpu_period", Container, Constant, &[CONTAINER]),
    family("container_start_time_seconds", Container, Constant, &[CONTAINER]),
    family("container_threads", Container, SmallGauge, &[CONTAINER]),
    // An instrumented service.
    family(
        "http_request_duration_seconds_bucket",
        Application,
        IntegerCounter,
        &[HANDLER, LE],
    ),
    family(
        "http_request_duration_seconds_count",
        Application,
        IntegerCounter,
        &[HANDLER],
    ),
    family("http_request_duration_seconds_sum", Application, Noise, &[HANDLER]),
    family(
        "http_requests_total",
        Application,
        IntegerCounter,
        &[("code", &["200", "404"]), HANDLER],
    ),
    family("http_request_errors_total", Application, IdleCounter, &[HANDLER]),
    family("http_request_size_bytes_sum", Application, IntegerCounter, &[HANDLER]),
    family(
        "http_response_latency_seconds",
        Application,
        Noise,
        &[HANDLER, ("quantile", &["0.5", "0.9", "0.99"])],
    ),
    family("go_memstats_mallocs_total", Application, IntegerCounter, &[]),
    family("go_memstats_frees_total", Application, IntegerCounter, &[]),
    family("go_memstats_alloc_bytes_total", Application, IntegerCounter, &[]),
    family("go_gc_cycles_total", Application, IntegerCounter, &[]),
    family("process_network_receive_bytes_total", Application, IntegerCounter, &[]),
    family("process_network_transmit_bytes_total", Application, IntegerCounter, &[]),
    family("go_gc_duration_seconds_sum", Application, Noise, &[]),
    family("application_queue_age_seconds", Application, Noise, &[]),
    family("process_cpu_seconds_total", Application, CpuSeconds, &[]),
    family("db_pool_wait_seconds_total", Application, CpuSeconds, &[POOL]),
    family("go_goroutines", Application, SmallGauge, &[]),
    family("go_threads", Application, SmallGauge, &[]),
    family("process_open_fds", Application, SmallGauge, &[]),
    family("http_requests_in_flight", Application, SmallGauge, &[]),
    family("go_panics_recovered_total", Application, IdleCounter, &[]),
    family("cache_evictions_total", Application, IdleCounter, &[]),
    family(
        "feature_flag_enabled",
        Application,
        Constant,
        &[(
            "flag",
            &["beta", "chat", "dark", "express", "gifts", "loyalty", "maps", "video"],
        )],
    ),
    family("up", Application, Constant, &[]),
    family("go_info", Application, Constant, &[]),
    family("application_build_info", Application, Constant, &[]),
    family("process_start_time_seconds", Application, Constant, &[]),
    family("process_max_fds", Application, Constant, &[]),
    family("config_reload_successful", Application, Constant, &[]),
    family("go_sched_gomaxprocs_threads", Application, Constant, &[]),
    family("db_pool_connections_max", Application, Constant, &[POOL]),
];
