// The last look at a PC board before it runs: CMOS, fw_cfg, tables for the firmware, direct kernel boot.
#include <algorithm>

#include "hw/acpi/tables.h"
#include "hw/firmware/kernel_boot.h"
#include "hw/firmware/smbios.h"
#include "hw/machine/pc_board.h"
#include "hw/storage/floppy.h"
#include "src/base/bits.h"
#include "src/base/log.h"
#include "src/x86/model.h"

namespace vmm::hw {

Result<> PcBoard::finish() {
  if (finished_) return {};
  finished_ = true;
  TRY(set_cmos());
  TRY(fill_fw_cfg());
  TRY(fill_smbios());
  TRY(fill_kernel());
  if (acpi_on()) TRY(finish_acpi());
  for (const auto& vcpu : vcpus_) TRY(vcpu->start());  // parked until the machine runs
  return {};
}

// Boot device letters as the firmware's CMOS codes: floppy 1, disk 2, CD 3, network 4.
static Result<std::array<u8, 3>> boot_codes(const std::string& order) {
  std::array<u8, 3> codes{};
  usize n = 0;
  for (char c : order) {
    const u8 code = c == 'a' || c == 'b' ? 1 : c == 'c' ? 2 : c == 'd' ? 3 : c == 'n' ? 4 : 0;
    if (!code) return fail("Invalid boot device for PC: '{}' (a floppy, c disk, d CD-ROM, n network)", c);
    if (n < codes.size()) codes[n++] = code;
  }
  return codes;
}

Result<> PcBoard::set_boot_order(const std::string& order) {
  const std::array<u8, 3> codes = TRY(boot_codes(order));
  rtc_->set_cmos(0x3d, static_cast<u8>(codes[1] << 4 | codes[0]));
  rtc_->set_cmos(0x38, static_cast<u8>(codes[2] << 4 | (fd_bootchk_ ? 0 : 1)));
  return {};
}

Result<> PcBoard::set_cmos() {
  Mc146818& c = *rtc_;
  const u64 kib = below_4g_ / KiB;
  const u64 base = std::min<u64>(kib, 640), extended = std::min<u64>(kib > 1024 ? kib - 1024 : 0, 65535);
  const u64 above_16m = std::min<u64>(below_4g_ > 16 * MiB ? (below_4g_ - 16 * MiB) / (64 * KiB) : 0, 65535);
  const u64 above_4g = ram_above_4g() / (64 * KiB);
  c.set_cmos(0x15, static_cast<u8>(base)), c.set_cmos(0x16, static_cast<u8>(base >> 8));
  for (u8 at : {0x17, 0x30}) c.set_cmos(at, static_cast<u8>(extended)), c.set_cmos(static_cast<u8>(at + 1), static_cast<u8>(extended >> 8));
  c.set_cmos(0x34, static_cast<u8>(above_16m)), c.set_cmos(0x35, static_cast<u8>(above_16m >> 8));
  for (u8 i = 0; i < 3; i++) c.set_cmos(static_cast<u8>(0x5b + i), static_cast<u8>(above_4g >> i * 8));
  c.set_cmos(0x5f, static_cast<u8>(std::min<usize>(vcpus_.size() - 1, 255)));
  const FloppyDrives floppies = floppy_drives(*this);
  c.set_cmos(0x10, floppies.types);
  c.set_cmos(0x14, static_cast<u8>(0x06 | (floppies.count ? 1 | (floppies.count - 1) << 6 : 0)));  // coprocessor, pointing device, floppies
  return set_boot_order(config.boot.once.empty() ? config.boot.order : config.boot.once);
}

namespace {
struct E820 {
  std::vector<u8> bytes;
  void add(u64 address, u64 size, u32 type) {
    const usize at = bytes.size();
    bytes.resize(at + 20);
    store_le<u64>(&bytes[at], address), store_le<u64>(&bytes[at + 8], size), store_le<u32>(&bytes[at + 16], type);
  }
};
std::vector<u8> le_bytes(u64 value, usize size) {
  std::vector<u8> bytes(8);
  store_le<u64>(bytes.data(), value);
  bytes.resize(size);
  return bytes;
}
}  // namespace

static std::optional<std::array<u8, 16>> parse_uuid(std::string_view text) {
  std::array<u8, 16> uuid{};
  usize n = 0;
  for (char c : text) {
    if (c == '-') continue;
    const int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (d < 0 || n >= 32) return std::nullopt;
    uuid[n / 2] = static_cast<u8>(uuid[n / 2] << 4 | d), n++;
  }
  return n == 32 ? std::optional{uuid} : std::nullopt;
}

Result<> PcBoard::fill_fw_cfg() {
  namespace key = fw_cfg_key;
  FwCfg& f = *fw_cfg_;
  std::array<u8, 16> uuid{};
  if (config.uuid_given) {
    const auto parsed = parse_uuid(config.uuid);
    if (!parsed) return fail("-uuid: '{}' is not a UUID", config.uuid);
    uuid = *parsed;
  }
  f.add_item(key::uuid, {uuid.begin(), uuid.end()});
  f.add_u64(key::ram_size, ram_->size_bytes());
  f.add_u16(key::nographic, !graphics_);
  f.add_u16(key::nb_cpus, static_cast<u16>(vcpus_.size()));
  f.add_u16(key::max_cpus, static_cast<u16>(std::max<u32>(cpu_id_limit(), config.smp.max_cpus)));
  f.add_u16(key::boot_menu, config.boot.menu);
  f.add_item(key::numa, FwCfg::Bytes((1 + cpu_id_limit()) * 8));
  f.add_u32(key::irq0_override, 1);
  if (hpet_device_) {
    FwCfg::Bytes block(1 + 8 * 15);
    block[0] = 1;
    store_le<u32>(&block[1], 0x8086a201);
    store_le<u64>(&block[5], 0xfed0'0000);
    f.add_item(key::hpet, std::move(block));
  } else {
    f.add_item(key::hpet, FwCfg::Bytes(1 + 8 * 15));
  }

  E820 map;
  if (cpu_model_->amd() && !compat("machine", "amd-1tb-hole")) map.add(0xfd'0000'0000, 0x3'0000'0000, 2);  // HyperTransport
  map.add(0, below_4g_, 1);
  if (ram_above_4g()) map.add(4 * GiB, ram_above_4g(), 1);
  TRY(f.add_file("etc/e820", std::move(map.bytes)));

  const auto& boot = config.boot;
  TRY(f.add_file("etc/boot-fail-wait", le_bytes(static_cast<u32>(boot.reboot_timeout), 4)));
  if (boot.splash_time >= 0) TRY(f.add_file("etc/boot-menu-wait", le_bytes(static_cast<u16>(std::min(boot.splash_time, 0xffff)), 2)));
  TRY(f.add_file("bootorder", {}));
  TRY(f.add_file("bios-geometry", {}));
  TRY(set_boot_paths());
  for (const vm::FwCfgItem& item : config.fw_cfg) {
    if (f.has_file(item.name)) return fail("-fw_cfg: file '{}' exists already", item.name);
    if (!item.name.starts_with("opt/")) report_warning(format("externally provided fw_cfg item names should be prefixed with \"opt/\""));
    TRY(f.add_file(item.name, item.data));
  }
  return {};
}

Result<> PcBoard::fill_smbios() {
  SmbiosInput in{.product = product(), .ram_bytes = ram_->size_bytes(), .ram_below_4g = below_4g_};
  std::string_view name = type_info().name;
  name.remove_suffix(name.ends_with("-machine") ? 8 : 0);
  in.version = in.cpu_version = std::string{name};
  if (config.uuid_given) in.uuid = parse_uuid(config.uuid).value_or(std::array<u8, 16>{}), in.uuid_given = true;
  in.sockets = config.smp.sockets, in.cores = config.smp.cores * config.smp.dies, in.threads = config.smp.threads;
  const x86::CpuidResult one = x86::cpuid(*cpu_model_, {.leaf = 1});
  in.cpu_signature = one.eax, in.cpu_features_edx = one.edx;
  in.options = config.smbios;
  SmbiosTables tables = TRY(build_smbios(in));
  if (tables.tables.empty()) return {};
  TRY(fw_cfg_->add_file("etc/smbios/smbios-anchor", std::move(tables.anchor)));
  return fw_cfg_->add_file("etc/smbios/smbios-tables", std::move(tables.tables));
}

// The ISA devices that tables tell of, whoever made them.
static void find_isa_devices(PcBoard& board, AcpiInput& in) {
  static constexpr u64 serial[] = {0x3f8, 0x2f8, 0x3e8, 0x2e8}, parallel[] = {0x378, 0x278, 0x3bc};
  in.serial_ports = in.parallel_ports = 0;
  for_each_device(board, [&](Device& d) {
    const auto port = [&](std::string_view property) {
      const auto value = d.get(property);
      return value && value->is_int() ? value->as_u64(property).value_or(0) : 0;
    };
    if (!d.realized()) return;
    const std::string_view type = d.type_info().name;
    for (unsigned n = 0; n < 4 && type == "isa-serial"; n++)
      if (port("iobase") == serial[n]) in.serial_ports |= static_cast<u8>(1u << n);
    for (unsigned n = 0; n < 3 && type == "isa-parallel"; n++)
      if (port("iobase") == parallel[n]) in.parallel_ports |= static_cast<u8>(1u << n);
    if (type == "pvpanic") in.pvpanic_port = static_cast<u16>(port("ioport"));
  });
}

Result<> PcBoard::add_acpi(AcpiInput input, bool s3, bool s4, u8 s4_type) {
  find_isa_devices(*this, input);
  describe_cpus(input);
  acpi_input_ = input;
  AcpiTables t = build_acpi_tables(input);
  TRY(fw_cfg_->add_file("etc/system-states",
                        {0x80, 0, 0, static_cast<u8>(s3 ? 0x81 : 1), static_cast<u8>(s4 ? 0x80 | s4_type : s4_type), 0x80}));
  TRY(fw_cfg_->add_file("etc/acpi/tables", std::move(t.tables)));
  TRY(fw_cfg_->add_file("etc/acpi/rsdp", std::move(t.rsdp)));
  // The firmware reads this one first. SeaBIOS has put power management at 0x600 by then, OVMF elsewhere: the tables must say so.
  return fw_cfg_->add_file("etc/table-loader", std::move(t.loader), [this] { (void)renew_acpi(); });
}

// The tables say which CPUs are there, and where the ports are; the firmware reads them again at each start.
Result<> PcBoard::renew_acpi() {
  if (!acpi_input_) return {};
  const auto before = acpi_input_->absent_cpus;
  describe_cpus(*acpi_input_);
  const u16 ports_before = acpi_input_->pm_base;
  if (const u16 ports = acpi_ports()) acpi_input_->pm_base = ports;
  if (acpi_input_->absent_cpus == before && acpi_input_->pm_base == ports_before) return {};
  AcpiTables t = build_acpi_tables(*acpi_input_);
  TRY(fw_cfg_->replace_file("etc/acpi/tables", std::move(t.tables)));
  TRY(fw_cfg_->replace_file("etc/acpi/rsdp", std::move(t.rsdp)));
  return fw_cfg_->replace_file("etc/table-loader", std::move(t.loader));
}

Result<> PcBoard::fill_kernel() {
  if (config.kernel.empty()) {
    if (!config.initrd.empty()) return fail("-initrd only allowed with -kernel option");
    if (!config.append.empty()) return fail("-append only allowed with -kernel option");
    return {};
  }
  KernelBoot boot = TRY(load_kernel_boot(config.kernel, config.initrd, config.append, below_4g_));
  for (auto& item : boot.items)
    item.slice.file ? fw_cfg_->add_slice(item.key, std::move(item.slice)) : fw_cfg_->add_item(item.key, std::move(item.bytes));
  TRY(fw_cfg_->add_file(boot.rom_name, std::move(boot.rom)));
  boot_rom_path_ = "/rom@" + boot.rom_name;
  return set_boot_paths();
}

// "bootorder" and "bios-geometry": a path a line, closed by a zero. Made again at each reset: devices come and go.
Result<> PcBoard::set_boot_paths() {
  std::string order, geometry;
  const auto add = [](std::string& file, const std::string& line) { file += (file.empty() ? "" : "\n") + line; };
  if (!boot_rom_path_.empty()) add(order, boot_rom_path_);
  for (const BootPath& p : boot_paths(*this)) {
    add(order, p.path);
    if (p.entry.cylinders) add(geometry, format("{} {} {} {}", p.path, p.entry.cylinders, p.entry.heads, p.entry.sectors));
  }
  if (config.boot.strict && !order.empty()) add(order, "HALT");
  const auto bytes = [](const std::string& text) {
    FwCfg::Bytes b{text.begin(), text.end()};
    if (!b.empty()) b.push_back(0);
    return b;
  };
  TRY(fw_cfg_->replace_file("bootorder", bytes(order)));
  return fw_cfg_->replace_file("bios-geometry", bytes(geometry));
}

}  // namespace vmm::hw
