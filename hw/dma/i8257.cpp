// 8237A with PC page registers. Source: Intel 8237A data sheet; 82371SB §2.5. Not modelled: memory-to-memory, cascade, rotating
// priority, verify's pseudo-cycles.
#include "hw/dma/i8257.h"

#include <algorithm>

#include "src/base/log.h"

namespace vmm {
template <>
inline constexpr std::array fields<hw::I8257::Channel> = {
    field<&hw::I8257::Channel::base_address>("base-address", "base address"),
    field<&hw::I8257::Channel::base_count>("base-count", "base count"),
    field<&hw::I8257::Channel::address>("address", "current address"),
    field<&hw::I8257::Channel::count>("count", "current count"),
    field<&hw::I8257::Channel::page>("page", "address bits 16-23"),
    field<&hw::I8257::Channel::page_high>("pageh", "address bits 24-31"),
    field<&hw::I8257::Channel::mode>("mode", "mode"),
};
}  // namespace vmm

namespace vmm::hw {

namespace {
enum Mode : u8 { auto_init = 0x10, decrement = 0x20, type_mask = 0x0c, to_memory = 0x04, from_memory = 0x08 };
constexpr u8 controller_off = 0x04;
// Page register n of eight belongs to this channel.
constexpr i8 channel_of_page[8] = {-1, 2, 3, 1, -1, -1, -1, 0};
}  // namespace

constexpr Field I8257::properties[] = {
    field<&I8257::base_>("base", "First I/O port."),
    field<&I8257::page_base_>("page-base", "First port of the page registers."),
    field<&I8257::pageh_base_>("pageh-base", "First port of the high page registers; -1 for none."),
    field<&I8257::dshift_>("dshift", "0 for 8-bit, 1 for 16-bit channels."),
};
constexpr Field I8257::state[] = {
    field<&I8257::channels_>("regs", "the four channels"),
    field<&I8257::command_>("command", "command register"),
    field<&I8257::mask_>("mask", "masked channels", {.max = 15}),
    field<&I8257::flip_flop_>("flip_flop", "the high byte is next"),
    field<&I8257::status_>("status", "terminal counts", {.max = 15}),
    field<&I8257::requests_>("requests", "DREQ lines", {.max = 15}),
};
constinit const TypeInfo I8257::type{
    .name = "i8257",
    .doc = "8237A DMA controller.",
    .parent = &IsaDevice::type,
    .properties = properties,
    .state = state,
    .make = make<I8257>,
    .user_creatable = false,
};
static Registered registered{I8257::type};

Result<> I8257::realize() {
  if (dshift_ < 0 || dshift_ > 1) return fail("'dshift' takes 0 or 1, not {}", dshift_);
  if (base_ < 0 || base_ > 0xffe0 || page_base_ < 0 || page_base_ > 0xfff8 || pageh_base_ > 0xfff8)
    return fail("'base' lies outside the I/O space");
  const u64 span = u64{8} << dshift_;
  channel_ports_.init_io<&I8257::channel_read, &I8257::channel_write>(*this, "dma-chan", span, {.min = 1, .max = 1});
  control_ports_.init_io<&I8257::control_read, &I8257::control_write>(*this, "dma-cont", span, {.min = 1, .max = 1});
  map_ports(channel_ports_, static_cast<u16>(base_));
  map_ports(control_ports_, static_cast<u16>(base_ + span));
  page_ports_[0].init_io<&I8257::page_read<1, false>, &I8257::page_write<1, false>>(*this, "dma-page", 3, {.min = 1, .max = 1});
  page_ports_[1].init_io<&I8257::page_read<7, false>, &I8257::page_write<7, false>>(*this, "dma-page", 1, {.min = 1, .max = 1});
  map_ports(page_ports_[0], static_cast<u16>(page_base_ + 1));
  map_ports(page_ports_[1], static_cast<u16>(page_base_ + 7));
  if (pageh_base_ >= 0) {
    pageh_ports_[0].init_io<&I8257::page_read<1, true>, &I8257::page_write<1, true>>(*this, "dma-pageh", 3, {.min = 1, .max = 1});
    pageh_ports_[1].init_io<&I8257::page_read<7, true>, &I8257::page_write<7, true>>(*this, "dma-pageh", 1, {.min = 1, .max = 1});
    map_ports(pageh_ports_[0], static_cast<u16>(pageh_base_ + 1));
    map_ports(pageh_ports_[1], static_cast<u16>(pageh_base_ + 7));
  }
  isa().set_dma(static_cast<unsigned>(dshift_), this);
  return {};
}

Task<> I8257::unrealize() {
  isa().set_dma(static_cast<unsigned>(dshift_), nullptr);
  co_return Result<>{};
}

void I8257::reset() {
  command_ = status_ = 0;
  flip_flop_ = false;
  mask_ = 0x0f;
}

// --- Ports ----------------------------------------------------------------------------------------------------------------------------
u64 I8257::channel_read(u64 offset, unsigned) {
  const unsigned n = static_cast<unsigned>(offset >> dshift_);
  const Channel& c = channels_[n >> 1];
  const u16 value = n & 1 ? c.count : c.address;
  flip_flop_ = !flip_flop_;
  return flip_flop_ ? value & 0xff : value >> 8;
}

void I8257::channel_write(u64 offset, unsigned, u64 value) {
  const unsigned n = static_cast<unsigned>(offset >> dshift_);
  Channel& c = channels_[n >> 1];
  u16& base = n & 1 ? c.base_count : c.base_address;
  flip_flop_ = !flip_flop_;
  base = flip_flop_ ? static_cast<u16>((base & 0xff00) | (value & 0xff)) : static_cast<u16>((base & 0xff) | (value & 0xff) << 8);
  (n & 1 ? c.count : c.address) = base;
}

u64 I8257::control_read(u64 offset, unsigned) {
  switch (offset >> dshift_) {
    case 0: {
      const u8 value = status_ | requests_ << 4;
      status_ = 0;  // reading clears the terminal counts
      return value;
    }
    case 7: return mask_;
    default: return 0;
  }
}

void I8257::control_write(u64 offset, unsigned, u64 wide) {
  const u8 value = static_cast<u8>(wide), channel = value & 3;
  const u8 before = mask_;
  switch (offset >> dshift_) {
    case 0: command_ = value; break;
    case 1:
      if (value & 4)
        set_request(channel, true);
      else
        set_request(channel, false);
      break;
    case 2: mask_ = value & 4 ? mask_ | 1 << channel : mask_ & ~(1 << channel); break;
    case 3: channels_[channel].mode = value; break;
    case 4: flip_flop_ = false; break;
    case 5: reset(); break;
    case 6: mask_ = 0; break;
    default: mask_ = value & 0x0f;
  }
  for (unsigned n = 0; n < 4; n++)
    if (before >> n & 1 && ready(n) && channels_[n].ready) channels_[n].ready();
}

template <unsigned First, bool High>
u64 I8257::page_read(u64 offset, unsigned) {
  const i8 channel = channel_of_page[(First + offset) & 7];
  return channel < 0 ? 0 : High ? channels_[channel].page_high : channels_[channel].page;
}

template <unsigned First, bool High>
void I8257::page_write(u64 offset, unsigned, u64 value) {
  const i8 channel = channel_of_page[(First + offset) & 7];
  if (channel < 0) return;
  (High ? channels_[channel].page_high : channels_[channel].page) = static_cast<u8>(value);
}

// --- Transfers ------------------------------------------------------------------------------------------------------------------------
bool I8257::ready(unsigned n) const { return requests_ >> n & 1 && !(mask_ >> n & 1) && !(command_ & controller_off); }

void I8257::set_request(unsigned n, bool level) {
  requests_ = level ? requests_ | 1 << n : requests_ & ~(1 << n);
  if (level && ready(n) && channels_[n].ready) channels_[n].ready();
}

// Runs of `length` bytes in the order of the transfer; the address counter wraps within its 64 Ki units.
template <class F>
usize I8257::transfer(unsigned n, usize length, bool* terminal, F move) {
  Channel& c = channels_[n];
  if (mask_ >> n & 1 || command_ & controller_off) return 0;
  const u64 page = u64{c.page_high} << 24 | u64{dshift_ ? c.page & 0xfeu : c.page} << 16;
  const usize unit = usize{1} << dshift_;
  usize done = 0;
  while (done + unit <= length) {
    move(GuestPhys{page + (u64{c.address} << dshift_)}, done, unit);
    done += unit;
    c.address = static_cast<u16>(c.mode & decrement ? c.address - 1 : c.address + 1);
    if (c.count-- == 0) {  // terminal count
      status_ |= 1 << n;
      if (terminal) *terminal = true;
      if (c.mode & auto_init)
        c.address = c.base_address, c.count = c.base_count;
      else
        mask_ |= 1 << n;
      break;
    }
  }
  return done;
}

usize I8257::write_memory(unsigned n, std::span<const u8> from, bool* terminal) {
  if ((channels_[n].mode & type_mask) != to_memory) return 0;
  return transfer(n, from.size(), terminal,
                  [&](GuestPhys at, usize offset, usize length) { machine().memory().write(at, from.subspan(offset, length)); });
}

usize I8257::read_memory(unsigned n, std::span<u8> into, bool* terminal) {
  if ((channels_[n].mode & type_mask) != from_memory) return 0;
  return transfer(n, into.size(), terminal,
                  [&](GuestPhys at, usize offset, usize length) { machine().memory().read(at, into.subspan(offset, length)); });
}

}  // namespace vmm::hw
