"""Writes a rig as nvidia-smi, lspci and NCCL print it: the forms of drivers 470 to 580 and pciutils 3.7 to 3.10."""

from dataclasses import dataclass


@dataclass
class Card:
    bus: str = "01:00.0"
    name: str = "NVIDIA GeForce RTX 4090"
    device: str = "2684"
    total: int = 24564
    used: int = 18
    gen: tuple[int, int] = (1, 4)  # now, most
    width: tuple[int, int] = (8, 16)
    limit: float = 450.0
    celsius: int = 41
    reasons: tuple[str, ...] = ("Idle",)
    uuid: str = "GPU-12345678-1234-1234-1234-1234567890ab"


REASONS = ("Idle", "Applications Clocks Setting", "SW Power Cap", "HW Slowdown", "HW Thermal Slowdown", "HW Power Brake Slowdown", "Sync Boost", "SW Thermal Slowdown", "Display Clock Setting")  # fmt: skip


def query(cards, driver="550.54.14", old=False):
    def line(indent, name, value):
        return f"{' ' * indent}{name:<{42 - indent}}: {value}"

    rows = ["", "==============NVSMI LOG==============", "", line(0, "Timestamp", "Sat Nov 28 12:00:00 2026"),
            line(0, "Driver Version", driver), line(0, "CUDA Version", "12.4"), "",
            line(0, "Attached GPUs", len(cards))]  # fmt: skip
    for card in cards:
        rows += [f"GPU 00000000:{card.bus.upper()}", line(4, "Product Name", card.name), line(4, "Display Active", "Disabled"),
                 line(4, "Persistence Mode", "Enabled"), "    MIG Mode", line(8, "Current", "N/A"),
                 line(4, "Serial Number", "1320220000000"), line(4, "GPU UUID", card.uuid), "    PCI",
                 line(8, "Device Id", f"0x{card.device.upper()}10DE"), line(8, "Bus Id", f"00000000:{card.bus.upper()}"),
                 "        GPU Link Info", "            PCIe Generation", line(16, "Max", card.gen[1]),
                 line(16, "Current", card.gen[0]), "            Link Width", line(16, "Max", f"{card.width[1]}x"),
                 line(16, "Current", f"{card.width[0]}x"), line(8, "Replays Since Reset", 7),
                 line(4, "Fan Speed", "30 %"), line(4, "Performance State", "P8"),
                 f"    Clocks {'Throttle' if old else 'Event'} Reasons"]  # fmt: skip
        rows += [line(12 if "HW " in name and name != "HW Slowdown" else 8, name,
                      "Active" if name in card.reasons else "Not Active") for name in REASONS]  # fmt: skip
        rows += ["    FB Memory Usage", line(8, "Total", f"{card.total} MiB"), line(8, "Reserved", "400 MiB"),
                 line(8, "Used", f"{card.used} MiB"), line(8, "Free", f"{card.total - card.used - 400} MiB"),
                 "    BAR1 Memory Usage", line(8, "Total", "32768 MiB"), line(8, "Used", "1 MiB"),
                 line(4, "Compute Mode", "Default"), "    Temperature", line(8, "GPU Current Temp", f"{card.celsius} C"),
                 line(8, "GPU Slowdown Temp", "92 C"), line(8, "Memory Current Temp", "N/A"),
                 f"    {'' if old else 'GPU '}Power Readings", line(8, "Power Draw", "21.30 W"),
                 line(8, "Power Limit" if old else "Current Power Limit", f"{card.limit:.2f} W"),
                 line(8, "Default Power Limit", "450.00 W"), line(8, "Min Power Limit", "150.00 W"),
                 line(8, "Max Power Limit", "600.00 W"), "    Clocks", line(8, "SM", "210 MHz"),
                 line(8, "Memory", "405 MHz"), "    Max Clocks", line(8, "SM", "3105 MHz")]  # fmt: skip
    return "\n".join(rows) + "\n"


def xml(cards, driver="550.54.14"):
    gpus = "".join(
        f'<gpu id="00000000:{card.bus.upper()}"><product_name>{card.name}</product_name>'
        "<persistence_mode>Enabled</persistence_mode><mig_mode><current_mig>N/A</current_mig></mig_mode>"
        f"<serial>1320220000000</serial><uuid>{card.uuid}</uuid><pci><pci_device_id>{card.device.upper()}10DE"
        "</pci_device_id><pci_gpu_link_info><pcie_gen>"
        f"<max_link_gen>{card.gen[1]}</max_link_gen><current_link_gen>{card.gen[0]}</current_link_gen></pcie_gen>"
        f"<link_widths><max_link_width>{card.width[1]}x</max_link_width><current_link_width>{card.width[0]}x"
        "</current_link_width></link_widths></pci_gpu_link_info><replay_counter>7</replay_counter></pci>"
        "<fan_speed>30 %</fan_speed><performance_state>P8</performance_state><clocks_event_reasons>"
        + "".join(f"<clocks_event_reason_{'gpu_idle' if name == 'Idle' else name.lower().replace(' ', '_')}>"
                  f"{'Active' if name in card.reasons else 'Not Active'}"
                  f"</clocks_event_reason_{'gpu_idle' if name == 'Idle' else name.lower().replace(' ', '_')}>"
                  for name in REASONS)
        + f"</clocks_event_reasons><fb_memory_usage><total>{card.total} MiB</total><reserved>400 MiB</reserved>"
        f"<used>{card.used} MiB</used><free>{card.total - card.used - 400} MiB</free></fb_memory_usage>"
        "<bar1_memory_usage><total>32768 MiB</total></bar1_memory_usage>"
        f"<temperature><gpu_temp>{card.celsius} C</gpu_temp>"
        "<gpu_temp_slow_threshold>92 C</gpu_temp_slow_threshold></temperature><gpu_power_readings>"
        f"<power_draw>21.30 W</power_draw><current_power_limit>{card.limit:.2f} W</current_power_limit>"
        "<default_power_limit>450.00 W</default_power_limit><min_power_limit>150.00 W</min_power_limit>"
        "<max_power_limit>600.00 W</max_power_limit></gpu_power_readings><clocks><sm_clock>210 MHz</sm_clock>"
        "<mem_clock>405 MHz</mem_clock></clocks></gpu>"
        for card in cards
    )  # fmt: skip
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>'
        f"<driver_version>{driver}</driver_version><cuda_version>12.4</cuda_version>{gpus}</nvidia_smi_log>\n"
    )


def table(cards, driver="550.54.14"):
    rule = "+-----------------------------------------+------------------------+----------------------+"
    rows = [rule, f"| NVIDIA-SMI {driver}              Driver Version: {driver}      CUDA Version: 12.4     |", rule,
            "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
            "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |",
            "|                                         |                        |               MIG M. |", rule]  # fmt: skip
    for number, card in enumerate(cards):
        rows += [f"|   {number}  {card.name:<30} On  |   00000000:{card.bus.upper()} Off |                  Off |",
                 f"| 30%   {card.celsius}C    P8              21W / {card.limit:.0f}W |   {card.used}MiB / {card.total}MiB |"
                 "      3%      Default |",
                 "|                                         |                        |                  N/A |", rule]  # fmt: skip
    processes = [
        "",
        "+----+",
        "| Processes:   |",
        "|    0   N/A  N/A      1234      C   /home/someone/python    10MiB |",
    ]
    return "\n".join([*rows, *processes]) + "\n"


def matrix(labels, nodes=(("0-15", "0"),)):
    """`labels`: a row for each card."""
    head = "\t".join(
        ["", *(f"GPU{number}" for number in range(len(labels))), "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"]
    )
    rows = [
        "\t".join([f"GPU{number}", *(f" {label} " for label in row), *nodes[number % len(nodes)], "N/A"])
        for number, row in enumerate(labels)
    ]
    return "\n".join([head, *rows, "", "Legend:", "  X    = Self", "  SYS  = Connection traversing PCIe"]) + "\n"


def lspci(functions, numbers=True):
    """`functions`: (bus, kind, name, ids, secondary bus, now, most, port), speeds and widths as (GT/s, lanes)."""
    rows = []
    for bus, kind, name, ids, secondary, now, most, port in functions:
        codes = {"PCI bridge": "0604", "VGA compatible controller": "0300", "3D controller": "0302"}
        rows.append(
            f"{bus} {kind}{f' [{codes[kind]}]' if numbers else ''}: {name}{f' [{ids}]' if numbers else ''} (rev a1)"
        )
        rows += ["\tControl: I/O+ Mem+ BusMaster+", "\tNUMA node: 0", "\tIOMMU group: 14"]
        if secondary:
            rows.append(f"\tBus: primary={bus[:2]}, secondary={secondary}, subordinate={secondary}, sec-latency=0")
        rows += [f"\tCapabilities: [78] Express (v2) {port}, IntMsgNum 0",
                 f"\t\tLnkCap:\tPort #0, Speed {most[0]}GT/s, Width x{most[1]}, ASPM L1, Exit Latency L1 <16us",
                 f"\t\tLnkSta:\tSpeed {now[0]}GT/s{' (downgraded)' if now != most else ''}, Width x{now[1]}",
                 "\tCapabilities: [100 v1] Access Control Services",
                 "\t\tACSCtl:\tSrcValid+ TransBlk- ReqRedir+ CmpltRedir- UpstreamFwd- EgressCtrl- DirectTrans-", ""]  # fmt: skip
    return "\n".join(rows)
