// Sources: ACPI 6.4 §6.1 (identification), §6.2 (resources, _PRT), §7.4 (sleep states); PIIX3 and ICH9 data sheets (PIRQ routing).
#include "hw/acpi/dsdt.h"

#include <algorithm>

#include "hw/acpi/aml.h"
#include "src/base/format.h"

namespace vmm::hw {
namespace {

using namespace aml;

// A device of the ISA bus.
Bytes isa_device(std::string_view node, std::string_view id, const Bytes& crs, unsigned uid = 0) {
  Bytes body = aml::name("_HID", eisa_id(id));
  if (uid) append(body, aml::name("_UID", integer(uid)));
  append(body, aml::name("_STA", integer(0xf)));
  append(body, aml::name("_CRS", crs));
  return device(node, body);
}

// An interrupt link device over one PIRQ routing register: bit 7 disables, low bits are the ISA line.
Bytes link_device(char letter, std::initializer_list<u32> choices) {
  const std::string node = format("LNK{}", letter), reg = format("PRQ{}", letter);
  const Bytes r = path(reg);
  // _CRS gives the line that the register holds.
  const Bytes crs = cat({aml::name("PRR0", resources({irq({5}, true, true, false, true)})), create_dword_field(path("PRR0"), 5, "PRRI"),
                         store(and_(r, integer(0x0f)), path("PRRI")), give(path("PRR0"))});
  const Bytes srs = cat({create_dword_field(arg(0), 5, "PRRI"), store(path("PRRI"), r)});
  return device(node, cat({aml::name("_HID", eisa_id("PNP0C0F")), aml::name("_UID", integer(static_cast<u64>(letter - 'A'))),
                           aml::name("_PRS", resources({irq(choices, true, true, false, true)})),
                           method("_STA", 0, cat({if_(and_(r, integer(0x80)), give(integer(0x09))), give(integer(0x0b))})),
                           method("_DIS", 0, or_(r, integer(0x80), r)), method("_CRS", 0, crs, true), method("_SRS", 1, srs, true)}));
}

// A link wired to one interrupt input of the IO-APIC (q35, GSI 16–23).
Bytes gsi_link(char letter) {
  const u32 gsi = 16u + static_cast<u32>(letter - 'A');
  const Bytes r = resources({irq({gsi}, true, true, false, true)});
  return device(format("GSI{}", letter), cat({aml::name("_HID", eisa_id("PNP0C0F")), aml::name("_UID", integer(gsi)), aml::name("_PRS", r),
                                              aml::name("_CRS", r), method("_SRS", 1, {})}));
}

Bytes routing_table(const AcpiInput& in, std::string_view prefix) {
  std::vector<Bytes> rows;
  for (unsigned slot = 0; slot < 32; slot++)
    for (unsigned pin = 0; pin < 4; pin++) {
      const char letter = static_cast<char>('A' + in.pirq(slot, pin));
      rows.push_back(package({integer(u64{slot} << 16 | 0xffff), integer(pin), path(format("{}{}", prefix, letter)), integer(0)}));
    }
  return package(rows);
}

Bytes isa_children(const AcpiInput& in) {
  Bytes out = isa_device("RTC", "PNP0B00", resources({io_ports(0x70, 0x70, 1, 8), irq_no_flags(1 << 8)}));
  if (in.i8042) {
    append(out, isa_device("KBD", "PNP0303", resources({io_ports(0x60, 0x60, 1, 1), io_ports(0x64, 0x64, 1, 1), irq_no_flags(1 << 1)})));
    append(out, isa_device("MOU", "PNP0F13", resources({irq_no_flags(1 << 12)})));
  }
  constexpr u16 ports[] = {0x3f8, 0x2f8, 0x3e8, 0x2e8};
  constexpr u8 lines[] = {4, 3, 4, 3};
  for (unsigned i = 0; i < 4; i++)
    if (in.serial_ports >> i & 1)
      append(out, isa_device(format("COM{}", i + 1), "PNP0501",
                             resources({io_ports(ports[i], ports[i], 0, 8), irq_no_flags(static_cast<u16>(1 << lines[i]))}), i + 1));
  constexpr u16 parallel[] = {0x378, 0x278, 0x3bc};
  constexpr u8 parallel_lines[] = {7, 5, 7};
  for (unsigned i = 0; i < 3; i++)
    if (in.parallel_ports >> i & 1)
      append(out, isa_device(format("LPT{}", i + 1), "PNP0400",
                             resources({io_ports(parallel[i], parallel[i], 8, 8), irq_no_flags(static_cast<u16>(1 << parallel_lines[i]))}),
                             i + 1));
  return out;
}

Bytes host_bridge_resources(const AcpiInput& in) {
  Bytes list = cat({bus_range(0, 0xff), io_ports(0xcf8, 0xcf8, 1, 8), io_window(0, 0xcf7), io_window(0xd00, 0xffff),
                    memory_window(0xa0000, 0xbffff, true)});
  u32 first = static_cast<u32>(in.ram_below_4g);
  if (in.ecam_bytes) {
    if (in.ecam_base > first) append(list, memory_window(first, static_cast<u32>(in.ecam_base - 1), false));
    first = static_cast<u32>(in.ecam_base + in.ecam_bytes);
  }
  append(list, memory_window(first, 0xfebfffff, false));
  if (in.hole64_last) append(list, memory_window64(in.hole64_first, in.hole64_last, true));
  return resources({list});
}

// --- PCI devices that come and go. AcpiPciHotplug keeps, for the bus whose number is in BNUM, masks of slots that were filled (PCIU) and
// that shall be emptied (PCID); writing a mask to B0EJ empties them. Both masks read once.

std::string slot_name(unsigned devfn) { return format("S{:02X}", devfn); }

Bytes hotplug_bus(const AcpiPciBus& bus) {
  Bytes out, told, asked;
  if (bus.number >= 0) {
    for (unsigned slot = 0; slot < 32; slot++) {
      if (!(bus.slots >> slot & 1)) continue;
      const std::string node = slot_name(slot << 3);
      append(out, device(node, cat({aml::name("_SUN", integer(static_cast<u64>(bus.number) << 5 | slot)),
                                    aml::name("_ADR", integer(u64{slot} << 16)),
                                    method("_EJ0", 1, call("\\_SB.PCEJ", {integer(static_cast<u64>(bus.number)), integer(slot)}))})));
      append(told, if_(and_(arg(0), integer(u64{1} << slot)), notify(node, arg(1))));
    }
    append(out, method("DVNT", 2, told));
    asked = cat({store(integer(static_cast<u64>(bus.number)), path("\\_SB.BNUM")), call("DVNT", {path("\\_SB.PCIU"), integer(1)}),
                 call("DVNT", {path("\\_SB.PCID"), integer(3)})});
  }
  for (const AcpiPciBridge& b : bus.bridges) {
    append(out, device(slot_name(b.devfn), cat({aml::name("_ADR", integer(u64{b.devfn} >> 3 << 16 | (b.devfn & 7))), hotplug_bus(b.bus)})));
    append(asked, path("^" + slot_name(b.devfn) + ".PCNT"));  // more than one name is not looked up further out
  }
  append(out, method("PCNT", 0, asked));
  return out;
}

Bytes hotplug_registers(u16 port) {
  const Bytes eject =
      cat({acquire("\\_SB.BLCK"), store(arg(0), path("BNUM")), store(shift_left(integer(1), arg(1)), path("B0EJ")), release("\\_SB.BLCK")});
  return cat({region("HPRG", Space::io, port, 16), field("HPRG", {{"PCIU", 32}, {"PCID", 32}, {"B0EJ", 32}, {"BNUM", 32}}, 3),
              mutex("BLCK"), method("PCEJ", 2, eject, true)});
}

// Which of the features of PCI Express the guest may run by itself (PCI Firmware 3.2 §4.5.1).
Bytes osc(bool native_hotplug) {
  static const Bytes uuid{0x5b, 0x4d, 0xdb, 0x33, 0xf7, 0x1f, 0x1c, 0x40, 0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66};
  const Bytes granted = integer(native_hotplug ? 0x1f : 0x1e);
  const Bytes known =
      cat({create_dword_field(arg(3), 4, "CDW2"), create_dword_field(arg(3), 8, "CDW3"), and_(path("CDW3"), granted, local(0)),
           if_(not_(equal(arg(1), integer(1))), or_(path("CDW1"), integer(8), path("CDW1"))),
           if_(not_(equal(path("CDW3"), local(0))), or_(path("CDW1"), integer(16), path("CDW1"))), store(local(0), path("CDW3"))});
  return method("_OSC", 4,
                cat({create_dword_field(arg(3), 0, "CDW1"), if_(equal(arg(0), buffer(uuid)), known),
                     else_(or_(path("CDW1"), integer(4), path("CDW1"))), give(arg(3))}),
                true);
}

// --- CPUs, and how they come and go: AcpiCpuHotplug's registers select a CPU (CSEL), show and change its state (CCTL: 1 enabled, 2 came,
// 4 leaves, 8 eject) and take commands (CCMD: 0 next with news, 1 and 2 what _OST says, in CDAT).

// What _MAT gives: the CPU's entry of the MADT, as it is once plugged.
Bytes cpu_entry(usize index, u32 apic_id) {
  const auto le = [](u32 v) {
    return Bytes{static_cast<u8>(v), static_cast<u8>(v >> 8), static_cast<u8>(v >> 16), static_cast<u8>(v >> 24)};
  };
  if (apic_id < 255) return cat({Bytes{0, 8, static_cast<u8>(index), static_cast<u8>(apic_id)}, le(1)});
  return cat({Bytes{9, 16, 0, 0}, le(apic_id), le(1), le(static_cast<u32>(index))});
}

Bytes cpu_methods(usize count, u16 port) {
  const Bytes select = store(arg(0), path("CSEL")), lock = acquire("CPLK"), unlock = release("CPLK");
  const auto bit = [](u64 n) { return and_(path("CCTL"), integer(n)); };
  Bytes told;
  for (usize i = 0; i < count; i++) append(told, if_(equal(arg(0), integer(i)), notify(format("C{:03X}", i), arg(1))));
  const auto news = [&](u64 mask, u64 what) {
    return if_(bit(mask),
               cat({call("CTFY", {path("CDAT"), integer(what)}), store(integer(mask), path("CCTL")), store(integer(1), local(0))}));
  };
  return cat(
      {region("CPRG", Space::io, port, 12), field("CPRG", {{"", 32}, {"CCTL", 8}, {"CCMD", 8}}),
       field("CPRG", {{"CSEL", 32}, {"", 32}, {"CDAT", 32}}, 3), mutex("CPLK"), method("CTFY", 2, told),
       method("CSTA", 1,
              cat({lock, select, store(integer(0), local(0)), if_(bit(1), store(integer(0xf), local(0))), unlock, give(local(0))}), true),
       method("CEJT", 1, cat({lock, select, store(integer(8), path("CCTL")), unlock}), true),
       method("COST", 3,
              cat({lock, select, store(integer(1), path("CCMD")), store(arg(1), path("CDAT")), store(integer(2), path("CCMD")),
                   store(arg(2), path("CDAT")), unlock}),
              true),
       method("CSCN", 0,
              cat({lock, store(integer(0), path("CSEL")), store(integer(1), local(0)),
                   while_(local(0), cat({store(integer(0), local(0)), store(integer(0), path("CCMD")), news(2, 1), news(4, 3)})), unlock}),
              true)});
}

Bytes cpus(const AcpiInput& in) {
  Bytes out = cat({aml::name("_HID", string("ACPI0010")), aml::name("_CID", eisa_id("PNP0A05"))});
  const bool hotplug = in.cpu_hotplug_port != 0;
  if (hotplug) append(out, cpu_methods(std::min<usize>(in.apic_ids.size(), 0x1000), in.cpu_hotplug_port));
  for (usize i = 0; i < in.apic_ids.size() && i < 0x1000; i++) {
    Bytes cpu = cat({aml::name("_HID", string("ACPI0007")), aml::name("_UID", integer(i))});
    if (hotplug) {
      append(cpu, method("_STA", 0, give(call("CSTA", {integer(i)}))));
      append(cpu, aml::name("_MAT", buffer(cpu_entry(i, in.apic_ids[i]))));
      if (i) append(cpu, method("_EJ0", 1, call("CEJT", {integer(i)})));
      append(cpu, method("_OST", 3, call("COST", {integer(i), arg(0), arg(1)})));
    } else {
      append(cpu, aml::name("_STA", integer(0xf)));
    }
    append(out, device(format("C{:03X}", i), cpu));
  }
  return device("CPUS", out);
}

}  // namespace

std::vector<u8> build_dsdt(const AcpiInput& in) {
  // --- Host bridge and what hangs on it
  Bytes pci = cat({aml::name("_UID", integer(0)), aml::name("_CRS", host_bridge_resources(in))});
  if (in.q35)
    append(pci,
           cat({aml::name("_HID", eisa_id("PNP0A08")), aml::name("_CID", eisa_id("PNP0A03")), aml::name("_CBA", integer(in.ecam_base))}));
  else
    append(pci, cat({aml::name("_HID", eisa_id("PNP0A03")), aml::name("_ADR", integer(0))}));
  if (in.q35) {
    // The guest says by _PIC whether it uses the IO-APIC.
    append(pci, cat({aml::name("PRTP", routing_table(in, "\\_SB.LNK")), aml::name("PRTA", routing_table(in, "\\_SB.GSI")),
                     method("_PRT", 0, cat({if_(path("\\PICF"), give(path("PRTA"))), give(path("PRTP"))}))}));
  } else {
    append(pci, aml::name("_PRT", routing_table(in, "\\_SB.LNK")));
  }
  Bytes bridge = aml::name("_ADR", integer(in.q35 ? 0x001f0000 : 0x00010000));
  append(bridge, region("PIRQ", Space::pci_config, 0x60, in.q35 ? 12 : 4));
  append(bridge, isa_children(in));
  if (in.pvpanic_port)
    append(bridge, device("PEVT", cat({aml::name("_HID", string("QEMU0001")), aml::name("_STA", integer(0xf)),
                                       aml::name("_CRS", resources({io_ports(in.pvpanic_port, in.pvpanic_port, 1, 1)}))})));
  append(pci, device("ISA", bridge));
  // Linux shows it as /sys/firmware/qemu_fw_cfg; hidden from users (_STA bit 2).
  if (in.fw_cfg)
    append(pci, device("FWCF", cat({aml::name("_HID", string("QEMU0002")), aml::name("_STA", integer(0xb)),
                                    aml::name("_CRS", resources({io_ports(0x510, 0x510, 1, 12)}))})));

  if (in.q35) append(pci, osc(in.native_hotplug));
  if (in.hotplug_port) append(pci, hotplug_bus(in.pci));

  // --- System bus
  Bytes system = in.hotplug_port ? hotplug_registers(in.hotplug_port) : Bytes{};
  append(system, device("PCI0", pci));
  if (in.hotplug_port)
    append(system, device("PHPR", cat({aml::name("_HID", eisa_id("PNP0A06")), aml::name("_UID", string("PCI hot plug")),
                                       aml::name("_STA", integer(0xb)),
                                       aml::name("_CRS", resources({io_ports(in.hotplug_port, in.hotplug_port, 1, 16)}))})));
  if (in.q35)
    append(system,
           field("PCI0.ISA.PIRQ",
                 {{"PRQA", 8}, {"PRQB", 8}, {"PRQC", 8}, {"PRQD", 8}, {"", 32}, {"PRQE", 8}, {"PRQF", 8}, {"PRQG", 8}, {"PRQH", 8}}));
  else
    append(system, field("PCI0.ISA.PIRQ", {{"PRQA", 8}, {"PRQB", 8}, {"PRQC", 8}, {"PRQD", 8}}));
  for (char letter = 'A'; letter <= (in.q35 ? 'H' : 'D'); letter++) append(system, link_device(letter, {5, 10, 11}));
  if (in.q35)
    for (char letter = 'A'; letter <= 'H'; letter++) append(system, gsi_link(letter));
  if (in.hpet)
    append(system,
           device("HPET", cat({aml::name("_HID", eisa_id("PNP0103")), aml::name("_UID", integer(0)), aml::name("_STA", integer(0xf)),
                               aml::name("_CRS", resources({fixed_memory(0xfed00000, 0x400, false)}))})));
  if (in.ecam_bytes)
    append(
        system,
        device("DRAC",
               cat({aml::name("_HID", eisa_id("PNP0C01")),
                    aml::name("_CRS", resources({fixed_memory(static_cast<u32>(in.ecam_base), static_cast<u32>(in.ecam_bytes), true)}))})));
  append(system, cpus(in));

  // --- Root
  Bytes out = cat({aml::name("PICF", integer(0)), method("_PIC", 1, store(arg(0), path("PICF"))), scope("\\_SB", system)});
  if (in.hotplug_port)
    append(out, scope("\\_GPE", method("_E01", 0, cat({acquire("\\_SB.BLCK"), path("\\_SB.PCI0.PCNT"), release("\\_SB.BLCK")}))));
  if (in.cpu_hotplug_port) append(out, scope("\\_GPE", method("_E02", 0, path("\\_SB.CPUS.CSCN"))));
  const auto sleep = [](unsigned type) { return package({integer(type), integer(type), integer(0), integer(0)}); };
  if (in.s3) append(out, aml::name("_S3", sleep(1)));
  if (in.s4) append(out, aml::name("_S4", sleep(2)));
  append(out, aml::name("_S5", sleep(0)));
  return out;
}

}  // namespace vmm::hw
