// Registers and memory of the VGA. Source: PS/2 Hardware Interface Technical Reference, "Video Subsystem", "VGA Function".
#include "hw/display/vga_core.h"

#include <algorithm>

#include "src/base/bits.h"

namespace vmm::hw {

static constexpr u8 sequencer_mask[8] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e, 0x00, 0x00, 0xff};
static constexpr u8 graphics_mask[16] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};
static constexpr u16 vbe_id_newest = 0xb0c5;
static constexpr u16 vbe_max_x = 16000, vbe_max_y = 12000, vbe_max_bpp = 32;

void VgaCore::reset() {
  misc_ = feature_ = status1_ = 0;
  sequencer_index_ = graphics_index_ = crtc_index_ = attribute_index_ = 0;
  attribute_data_next_ = false;
  sequencer_.fill(0), graphics_.fill(0), attribute_.fill(0), crtc_.fill(0);
  dac_state_ = dac_read_ = dac_write_ = dac_part_ = 0, dac_mask_ = 0xff;
  palette_.fill(0);
  latch_ = 0;
  vbe_.fill(0), vbe_index = 0;
  vbe_[vbe_id] = vbe_id_newest;
  std::memset(vram_->host(), 0, std::min<u64>(vram_->size_bytes(), 256 * KiB));
  vram_->mark_dirty(0, std::min<u64>(vram_->size_bytes(), 256 * KiB));
}

// --- Ports

u8 VgaCore::port_read(u16 port) {
  // CRTC and status answer at 3bx or 3dx, as the miscellaneous output register says.
  if ((port & 0x3f0) == 0x3b0 && colour_ports()) return 0xff;
  if ((port & 0x3f0) == 0x3d0 && !colour_ports()) return 0xff;
  switch (port) {
    case 0x3c0: return attribute_data_next_ ? 0 : attribute_index_;
    case 0x3c1: return (attribute_index_ & 0x1f) < 21 ? attribute_[attribute_index_ & 0x1f] : 0;
    case 0x3c2: return 0;
    case 0x3c4: return sequencer_index_;
    case 0x3c5: return sequencer_[sequencer_index_];
    case 0x3c6: return dac_mask_;
    case 0x3c7: return dac_state_;
    case 0x3c8: return dac_write_;
    case 0x3c9: {
      const u8 v = palette_[dac_read_ * 3u + dac_part_];
      if (++dac_part_ == 3) dac_part_ = 0, dac_read_++;
      return v;
    }
    case 0x3ca: return feature_;
    case 0x3cc: return misc_;
    case 0x3ce: return graphics_index_;
    case 0x3cf: return graphics_[graphics_index_];
    case 0x3b4:
    case 0x3d4: return crtc_index_;
    case 0x3b5:
    case 0x3d5: return crtc_[crtc_index_];
    case 0x3ba:
    case 0x3da:
      // No beam is modelled: programs that wait for retrace see it come and go.
      attribute_data_next_ = false;
      status1_ ^= 0x09;
      return status1_;
    default: return 0xff;
  }
}

void VgaCore::port_write(u16 port, u8 value) {
  if ((port & 0x3f0) == 0x3b0 && colour_ports()) return;
  if ((port & 0x3f0) == 0x3d0 && !colour_ports()) return;
  switch (port) {
    case 0x3c0: {
      if (!attribute_data_next_) {
        attribute_index_ = value & 0x3f;
      } else {
        const u8 index = attribute_index_ & 0x1f;
        static constexpr u8 mask[21] = {0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f,
                                        0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0xef, 0xff, 0x3f, 0x0f, 0x0f};
        if (index < 21) attribute_[index] = value & mask[index];
      }
      attribute_data_next_ = !attribute_data_next_;
      break;
    }
    case 0x3c2: misc_ = value & 0xef; break;
    case 0x3c4: sequencer_index_ = value & 7; break;
    case 0x3c5: sequencer_[sequencer_index_] = value & sequencer_mask[sequencer_index_]; break;
    case 0x3c6: dac_mask_ = value; break;
    case 0x3c7: dac_read_ = value, dac_part_ = 0, dac_state_ = 3; break;
    case 0x3c8: dac_write_ = value, dac_part_ = 0, dac_state_ = 0; break;
    case 0x3c9:
      dac_latch_[dac_part_] = value;
      if (++dac_part_ == 3) {
        std::ranges::copy(dac_latch_, palette_.begin() + dac_write_ * 3);
        dac_part_ = 0, dac_write_++;
      }
      break;
    case 0x3ce: graphics_index_ = value & 15; break;
    case 0x3cf: graphics_[graphics_index_] = value & graphics_mask[graphics_index_]; break;
    case 0x3b4:
    case 0x3d4: crtc_index_ = value; break;
    case 0x3b5:
    case 0x3d5:
      if ((crtc_[0x11] & 0x80) && crtc_index_ <= 7) {  // registers 0–7 are protected, but for the line compare bit
        if (crtc_index_ == 7) crtc_[7] = static_cast<u8>((crtc_[7] & ~0x10) | (value & 0x10));
        break;
      }
      crtc_[crtc_index_] = value;
      break;
    case 0x3ba:
    case 0x3da: feature_ = value & 0x10; break;
    default: break;
  }
}

// --- Memory window

void VgaCore::store(u64 at, u8 value) {
  at &= vram_->size_bytes() - 1;
  vram_->host()[at] = value;
  if (vram_->dirty_logging_mask()) vram_->mark_dirty(at, 1);
}

std::optional<u32> VgaCore::window_offset(u32 offset) const {
  switch (graphics_[6] >> 2 & 3) {
    case 0: return offset;
    case 1: return offset < 0x10000 ? std::optional{offset + (u32{vbe_[vbe_bank]} << 16)} : std::nullopt;
    case 2: return offset >= 0x10000 && offset < 0x18000 ? std::optional{offset - 0x10000} : std::nullopt;
    default: return offset >= 0x18000 ? std::optional{offset - 0x18000} : std::nullopt;
  }
}

// One bit a plane to one byte a plane.
static constexpr u32 planes(u8 bits) {
  u32 v = 0;
  for (unsigned p = 0; p < 4; p++)
    if (bits >> p & 1) v |= 0xffu << p * 8;
  return v;
}

u8 VgaCore::window_read(u32 offset) {
  const auto at = window_offset(offset);
  if (!at) return 0xff;
  if (sequencer_[4] & 8) return load(*at);  // chain 4
  if (graphics_[5] & 0x10) {                // odd/even
    const u32 plane = (graphics_[4] & 2u) | (*at & 1);
    return load(u64{*at >> 1} * 4 + plane);
  }
  const u64 n = u64{*at} * 4;
  latch_ = load(n) | u32{load(n + 1)} << 8 | u32{load(n + 2)} << 16 | u32{load(n + 3)} << 24;
  if (!(graphics_[5] & 8)) return static_cast<u8>(latch_ >> (graphics_[4] & 3) * 8);
  u32 different = (latch_ ^ planes(graphics_[2])) & planes(graphics_[7]);
  different |= different >> 16, different |= different >> 8;
  return static_cast<u8>(~different);
}

void VgaCore::window_write(u32 offset, u8 value) {
  const auto at = window_offset(offset);
  if (!at) return;
  const u8 map = sequencer_[2];
  if (sequencer_[4] & 8) {
    if (map >> (*at & 3) & 1) store(*at, value);
    return;
  }
  if (graphics_[5] & 0x10) {
    const u32 plane = *at & 1;
    if (map >> plane & 1) store(u64{*at >> 1} * 4 + plane, value);
    return;
  }
  // Write modes 0–3: rotate, set/reset, function with the latch, bit mask.
  const u8 rotated = std::rotr(value, graphics_[3] & 7);
  u32 data = 0;
  u8 mask = graphics_[8];
  bool combine = true;
  switch (graphics_[5] & 3) {
    case 0: {
      const u32 set = planes(graphics_[1]);
      data = (rotated * 0x01010101u & ~set) | (planes(graphics_[0]) & set);
      break;
    }
    case 1: data = latch_, combine = false; break;
    case 2: data = planes(value & 15); break;
    default: data = planes(graphics_[0]), mask &= rotated; break;
  }
  if (combine) {
    switch (graphics_[3] >> 3 & 3) {
      case 1: data &= latch_; break;
      case 2: data |= latch_; break;
      case 3: data ^= latch_; break;
      default: break;
    }
    const u32 m = mask * 0x01010101u;
    data = (data & m) | (latch_ & ~m);
  }
  for (unsigned p = 0; p < 4; p++)
    if (map >> p & 1) store(u64{*at} * 4 + p, static_cast<u8>(data >> p * 8));
}

// --- VBE dispi

u16 VgaCore::vbe_read(u16 index) const {
  if (index >= vbe_count) return 0;
  if (vbe_[vbe_enable] & vbe_get_caps) {
    if (index == vbe_xres) return vbe_max_x;
    if (index == vbe_yres) return vbe_max_y;
    if (index == vbe_bpp) return vbe_max_bpp;
  }
  if (index == vbe_memory_64k) return static_cast<u16>(vram_->size_bytes() / (64 * KiB));
  return vbe_[index];
}

void VgaCore::vbe_write(u16 index, u16 value) {
  if (index >= vbe_count) return;
  switch (index) {
    case vbe_id:
      if (value >= 0xb0c0 && value <= vbe_id_newest) vbe_[vbe_id] = value;
      break;
    case vbe_bank: vbe_[vbe_bank] = static_cast<u16>(value & (vram_->size_bytes() / (64 * KiB) - 1)); break;
    case vbe_memory_64k: break;
    case vbe_enable: {
      const bool was_on = vbe_on();
      vbe_[vbe_enable] = value;
      if (vbe_on() && !was_on) {
        vbe_[vbe_virt_width] = 0, vbe_[vbe_x_offset] = vbe_[vbe_y_offset] = 0;
        vbe_fix();
        // What the mode means to the VGA: graphics, 64 KiB window, packed pixels.
        graphics_[6] = static_cast<u8>((graphics_[6] & ~0x0c) | 0x05);
        if (vbe_[vbe_bpp] > 4) {
          sequencer_[4] |= 8, sequencer_[2] |= 0x0f;
          graphics_[5] = static_cast<u8>((graphics_[5] & ~0x60) | 0x40);
        }
        if (!(value & vbe_no_clear)) {
          const u64 bytes =
              std::min<u64>(u64{vbe_[vbe_virt_width]} * std::max<u16>(vbe_[vbe_bpp], 8) / 8 * vbe_[vbe_yres], vram_->size_bytes());
          std::memset(vram_->host(), 0, bytes);
          vram_->mark_dirty(0, bytes);
        }
      } else if (!vbe_on()) {
        vbe_[vbe_bank] = 0;
      }
      break;
    }
    default:
      vbe_[index] = value;
      vbe_fix();
      break;
  }
}

// Whatever was written, what counts fits the memory.
void VgaCore::vbe_fix() {
  if (!vbe_on()) return;
  u16& bpp = vbe_[vbe_bpp];
  if (bpp != 4 && bpp != 8 && bpp != 15 && bpp != 16 && bpp != 24 && bpp != 32) bpp = 8;
  u16& x = vbe_[vbe_xres];
  x = static_cast<u16>(std::clamp<unsigned>(x & ~7u, 8, vbe_max_x));
  u16& width = vbe_[vbe_virt_width];
  width = static_cast<u16>(std::clamp<unsigned>(width & ~7u, x, vbe_max_x));
  const u64 line = bpp == 4 ? u64{width} / 2 : u64{width} * (bpp == 15 ? 2u : bpp / 8u);
  const u64 most = vram_->size_bytes() / line;
  u16& y = vbe_[vbe_yres];
  y = static_cast<u16>(std::clamp<u64>(y, 1, std::min<u64>(most, vbe_max_y)));
  vbe_[vbe_virt_height] = static_cast<u16>(std::min<u64>(most, 0xffff));
  vbe_[vbe_x_offset] = static_cast<u16>(std::min<unsigned>(vbe_[vbe_x_offset], width - x));
  vbe_[vbe_y_offset] = static_cast<u16>(std::min<u64>(vbe_[vbe_y_offset], most - y));
}

void VgaCore::loaded() {
  sequencer_index_ &= 7, graphics_index_ &= 15, attribute_index_ &= 0x3f;
  for (unsigned i = 0; i < 8; i++) sequencer_[i] &= sequencer_mask[i];
  for (unsigned i = 0; i < 16; i++) graphics_[i] &= graphics_mask[i];
  dac_part_ = 0;
  vbe_[vbe_bank] &= static_cast<u16>(vram_->size_bytes() / (64 * KiB) - 1);
  vbe_fix();
}

}  // namespace vmm::hw
