// Registers, EEPROM, PHY and interrupts of Intel's gigabit controllers (sources: intel.h). Transmission and reception: intel_rings.cpp.
#include "hw/net/intel.h"

#include <zlib.h>

#include <cstring>

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

using namespace intel;

namespace {
enum : u32 {
  ctrl_reset = 1u << 26,
  ctrl_phy_reset = 1u << 31,
  ctrl_vme = 1u << 30,
  ctrl_ee_reset = 1u << 13,
  status_full_duplex = 1,
  status_link_up = 2,
  status_1000 = 0x80,
  eecd_clock = 1,
  eecd_select = 2,
  eecd_in = 4,
  eecd_out = 8,
  eecd_request = 0x40,
  eecd_grant = 0x80,
  eecd_present = 0x100,
  mdic_write = 1u << 26,
  mdic_read = 2u << 26,
  mdic_ready = 1u << 28,
  mdic_interrupt = 1u << 29,
  mdic_error = 1u << 30,
};
}  // namespace

IntelNic::IntelNic(const PciIds& ids, std::string_view rom, u16 phy_id1, u16 phy_id2)
    : PciNic(ids, rom), phy_id1_(phy_id1), phy_id2_(phy_id2) {}

constexpr Field IntelNic::intel_state[5] = {
    computed<&IntelNic::saved_registers, &IntelNic::load_registers>("registers", "register contents"),
    field<&IntelNic::phy_>("phy", "PHY registers"),
    field<&IntelNic::eeprom_>("eeprom", "EEPROM and what is being read of it"),
    computed<&IntelNic::saved_frame, &IntelNic::load_frame>("tx-frame", "frame that is being put together"),
    computed<&IntelNic::saved_contexts, &IntelNic::load_contexts>("tx-contexts", "what is to be done to it"),
};
constinit const TypeInfo IntelNic::type{.name = "intel-nic", .parent = &PciNic::type, .state = intel_state};
static Registered registered{IntelNic::type};

std::vector<u8> IntelNic::saved_registers() const {
  std::vector<u8> bytes(register_bytes);
  std::memcpy(bytes.data(), registers_.data(), bytes.size());
  return bytes;
}
Result<> IntelNic::load_registers(const std::vector<u8>& bytes) {
  if (bytes.size() != register_bytes) return fail("'registers' has {} bytes, not {}", bytes.size(), register_bytes);
  std::memcpy(registers_.data(), bytes.data(), bytes.size());
  return {};
}

Result<> IntelNic::realize_nic() {
  region_.init_io<&IntelNic::read, &IntelNic::write>(*this, format("{}-mmio", type_info().name), bar_bytes, {.min = 4, .max = 4});
  io_.init_io<&IntelNic::io_read, &IntelNic::io_write>(*this, format("{}-io", type_info().name), 64, {.min = 4, .max = 4});
  set_interrupt_pin(1);
  add_bar(0, PciBarKind::memory32, region_);
  add_bar(extended_receive() ? 2 : 1, PciBarKind::io, io_);
  return {};
}

void IntelNic::fill_eeprom(std::span<const u16> base) {
  auto& words = eeprom_.words;
  std::ranges::copy(base, words.begin());
  for (unsigned i = 0; i < 3; i++) words[i] = static_cast<u16>(mac_[i * 2] | mac_[i * 2 + 1] << 8);
  u16 sum = 0;
  for (unsigned i = 0; i < 63; i++) sum = static_cast<u16>(sum + words[i]);
  words[63] = static_cast<u16>(0xbaba - sum);
}

void IntelNic::load_address() {
  reg(RA) = mac_[0] | mac_[1] << 8 | mac_[2] << 16 | u32{mac_[3]} << 24;
  reg(RA + 4) = u32{mac_[4]} | u32{mac_[5]} << 8 | 1u << 31;
}

void IntelNic::software_reset() {
  std::ranges::fill(registers_, 0);
  reg(CTRL) = 0x0014'0241;
  reg(STATUS) = 0x8000'0000 | status_full_duplex | status_1000;
  reg(EECD) = eecd_present;
  reg(PBA) = 0x0010'0030;
  reg(MANC) = 0x0000'4000 | 1u << 13;
  reg(VET) = 0x8100;
  reg(TCTL) = 8;
  reg(PSRCTL) = 0x0004'0402;
  reg(0xe00) = 0x0706'8302;  // LEDCTL
  load_address();
  tx_frame_.clear(), tx_flags_ = 0, tx_complete_ = false;
  eeprom_.idle();
  throttled_ = false;
  throttle_.cancel();
  set_link_status();
}

void IntelNic::reset() {
  PciDevice::reset();
  phy_.fill(0);
  // Marvell 88E1011: 1000 Mb/s, full duplex, autonegotiation.
  phy_[0] = 0x1140, phy_[1] = 0x7949, phy_[2] = phy_id1_, phy_[3] = phy_id2_, phy_[4] = 0x0de1, phy_[5] = 0xcde1, phy_[6] = 0x0d;
  phy_[9] = 0x0e00, phy_[10] = 0x3c00, phy_[15] = 0x3000, phy_[16] = 0x0360, phy_[17] = 0xa000, phy_[20] = 0x0d60;
  io_address_ = 0;
  software_reset();
}
void IntelNic::settle() {
  PciDevice::settle();
  update_interrupt();
}
Result<> IntelNic::after_load() {
  throttled_ = false;
  throttle_.cancel();
  set_link_status();
  return {};
}

void IntelNic::set_link_status() {
  const bool up = link_up();
  reg(STATUS) = up ? reg(STATUS) | status_link_up : reg(STATUS) & ~status_link_up;
  phy_[1] = static_cast<u16>(up ? phy_[1] | 0x24 : phy_[1] & ~0x24);
  phy_[17] = static_cast<u16>(up ? phy_[17] | 0x0c00 : phy_[17] & ~0x0c00);
}
void IntelNic::card_link_changed(unsigned) {
  if (!realized()) return;
  const u32 before = reg(STATUS);
  set_link_status();
  if ((before ^ reg(STATUS)) & status_link_up) raise(LSC | OTHER);
}

// --- Interrupts

void IntelNic::raise(u32 causes) {
  reg(ICR) |= causes & ~INT_ASSERTED & (extended_receive() ? ~u32{0} : 0xffff);
  reg(ICS) = reg(ICR);
  update_interrupt();
}

void IntelNic::update_interrupt() {
  const bool level = reg(ICR) & reg(IMS) & ~INT_ASSERTED;
  reg(ICR) = level ? reg(ICR) | INT_ASSERTED : reg(ICR) & ~INT_ASSERTED;
  if (!level) return set_intx(false);
  if (throttled_) return;
  set_intx(true);
  // ITR: at least so many times 256 ns between interrupts; the driver asks for it where it has much to do.
  if (const u32 interval = reg(ITR) & 0xffff) {
    throttled_ = true;
    throttle_.arm_in(Nanoseconds{i64{interval} * 256});
  }
}
void IntelNic::throttle_over() {
  throttled_ = false;
  update_interrupt();
}

// --- EEPROM: a 93C46 behind three wires

void IntelNic::eecd_written(u32 value) {
  reg(EECD) = (value & (eecd_clock | eecd_select | eecd_in | eecd_request | 0x30)) | eecd_present;
  eeprom_.set(value & eecd_select, value & eecd_clock, value & eecd_in);
}
u32 IntelNic::eecd_read() const {
  u32 value = reg(EECD) | eecd_present;
  if (value & eecd_request) value |= eecd_grant;
  if (eeprom_.data_out()) value |= eecd_out;
  return value;
}

// --- PHY

u16 IntelNic::phy_read(unsigned r) { return phy_[r]; }
void IntelNic::phy_write(unsigned r, u16 value) {
  switch (r) {
    case 0:
      phy_[0] = value & 0x7dff;  // reset and restart of autonegotiation are over at once
      if (value & 0x8000) phy_[0] = 0x1140;
      if (value & 0x0200 && link_up()) {
        phy_[1] |= 0x20;
        raise(LSC);
      }
      break;
    case 1:
    case 2:
    case 3:
    case 5:
    case 6:
    case 10:
    case 15:
    case 17:
    case 19: break;
    default: phy_[r] = value;
  }
}
void IntelNic::mdic_written(u32 value) {
  const unsigned r = value >> 16 & 31;
  u32 answer = value & ~(mdic_error | mdic_ready);
  if ((value >> 21 & 31) != 1) {
    answer |= mdic_error;
  } else if (value & mdic_read) {
    answer = (answer & 0xffff'0000) | phy_read(r);
  } else if (value & mdic_write) {
    phy_write(r, static_cast<u16>(value));
  }
  reg(MDIC) = answer | mdic_ready;
  if (value & mdic_interrupt) raise(MDAC);
}

// --- The guest's side

u32 IntelNic::register_read(u32 at) {
  switch (at) {
    case ICR: {
      const u32 value = reg(ICR);
      reg(ICR) = 0;
      update_interrupt();
      return value;
    }
    case ICS: return reg(ICR);
    case IMC: return reg(IMS);
    case EECD: return eecd_read();
    case SWSM: {  // the semaphore is taken by reading it
      const u32 value = reg(SWSM);
      reg(SWSM) |= 1;
      return value;
    }
    default:
      if (at >= STATS && at < STATS_END) return std::exchange(reg(at), 0);
      return reg(at);
  }
}

void IntelNic::register_write(u32 at, u32 value) {
  switch (at) {
    case CTRL:
      if (value & ctrl_reset) {
        software_reset();
        return update_interrupt();
      }
      reg(CTRL) = value & ~(ctrl_phy_reset | ctrl_ee_reset);
      break;
    case STATUS: break;
    case CTRL_EXT:
      if (value & ctrl_ee_reset) load_address();
      reg(at) = value & ~ctrl_ee_reset;
      break;
    case EECD: eecd_written(value); break;
    case EERD:
      if (value & 1) {
        const u32 word = value >> (extended_receive() ? 2 : 8) & 0x3fff;
        reg(at) = (value & 0xfffc) | u32{word < 64 ? eeprom_.words[word] : u16{0xffff}} << 16 | (extended_receive() ? 2 : 0x10);
      }
      break;
    case MDIC: mdic_written(value); break;
    case ICR:
      reg(ICR) &= ~value;
      update_interrupt();
      break;
    case ICS: raise(value); break;
    case IMS:
      reg(IMS) |= value;
      update_interrupt();
      break;
    case IMC:
      reg(IMS) &= ~value;
      update_interrupt();
      break;
    case RCTL:
    case RDT:
      reg(at) = at == RDT ? value & 0xffff : value;
      run_soon();
      break;
    case RDH:
    case TDH: reg(at) = value & 0xffff; break;
    case RDLEN:
    case TDLEN: reg(at) = value & 0xfff80; break;
    case RDBAL:
    case TDBAL: reg(at) = value & ~u32{15}; break;
    case TCTL:
    case TDT:
      reg(at) = at == TDT ? value & 0xffff : value;
      run_soon();
      break;
    default:
      if (at >= STATS && at < STATS_END) break;
      reg(at) = value;
  }
}

u64 IntelNic::read(u64 offset, unsigned) {
  if (offset >= register_bytes) return 0;
  return register_read(static_cast<u32>(offset) & ~u32{3});
}
void IntelNic::write(u64 offset, unsigned, u64 value) {
  if (offset >= register_bytes) return guest_error(type_info().name, "write of {:#x} to {:#x}", value, offset);
  register_write(static_cast<u32>(offset) & ~u32{3}, static_cast<u32>(value));
}
// The window of ports: an address, then the register there.
u64 IntelNic::io_read(u64 offset, unsigned size) {
  if (offset == 0) return io_address_;
  if (offset == 4) return read(io_address_, size);
  return 0;
}
void IntelNic::io_write(u64 offset, unsigned size, u64 value) {
  if (offset == 0) io_address_ = static_cast<u32>(value) & ~u32{3};
  if (offset == 4) write(io_address_, size, value);
}

}  // namespace vmm::hw
