// A VGA with Bochs' VBE extensions: registers, memory window, picture. Sources: IBM VGA (PS/2 Hardware Interface Technical Reference,
// "Video Subsystem"); Bochs VBE_DISPI interface; the published register layout of QEMU's standard VGA. Machine lock held.
//
// Memory is kept as the linear frame buffer sees it: byte 4*n + p is plane p at plane address n. In chain-4 modes CPU address a is
// byte a; in odd/even modes CPU addresses 2n and 2n+1 are planes 0 and 1 at n.
#pragma once

#include <array>
#include <memory>

#include "src/memory/memory.h"
#include "src/ui/screen.h"

namespace vmm::hw {

class VgaCore {
 public:
  // Dispi registers by index.
  enum : u16 {
    vbe_id,
    vbe_xres,
    vbe_yres,
    vbe_bpp,
    vbe_enable,
    vbe_bank,
    vbe_virt_width,
    vbe_virt_height,
    vbe_x_offset,
    vbe_y_offset,
    vbe_memory_64k,
    vbe_count
  };
  enum : u16 { vbe_enabled = 0x01, vbe_get_caps = 0x02, vbe_8bit_dac = 0x20, vbe_linear = 0x40, vbe_no_clear = 0x80 };

  void set_memory(std::shared_ptr<memory::RamBlock> vram) { vram_ = std::move(vram); }
  void reset();
  u8 port_read(u16 port);
  void port_write(u16 port, u8 value);
  u8 window_read(u32 offset);  // of 0xa0000, up to 128 KiB
  void window_write(u32 offset, u8 value);
  u16 vbe_read(u16 index) const;
  void vbe_write(u16 index, u16 value);
  u16 vbe_index = 0;
  void loaded();  // makes state from outside safe to use

  ui::Picture picture() const;
  u64 generation();  // another number when what the picture is made of has changed
  std::string text() const;
  // Text modes only: columns and rows; 0, 0 otherwise.
  std::pair<unsigned, unsigned> text_size() const;

  // State, migrated by the owner.
  u8 misc_ = 0, feature_ = 0, status1_ = 0;
  u8 sequencer_index_ = 0, graphics_index_ = 0, crtc_index_ = 0, attribute_index_ = 0;
  bool attribute_data_next_ = false;
  std::array<u8, 8> sequencer_{};
  std::array<u8, 16> graphics_{};
  std::array<u8, 32> attribute_{};
  std::array<u8, 256> crtc_{};
  u8 dac_state_ = 0, dac_read_ = 0, dac_write_ = 0, dac_part_ = 0, dac_mask_ = 0xff;
  std::array<u8, 3> dac_latch_{};
  std::array<u8, 768> palette_{};
  u32 latch_ = 0;
  std::array<u16, vbe_count> vbe_{};

 private:
  bool colour_ports() const { return misc_ & 1; }
  bool vbe_on() const { return vbe_[vbe_enable] & vbe_enabled; }
  bool graphics_mode() const { return vbe_on() || (graphics_[6] & 1); }
  std::optional<u32> window_offset(u32 offset) const;
  void vbe_fix();
  void store(u64 at, u8 value);
  u8 load(u64 at) const { return vram_->host()[at & (vram_->size_bytes() - 1)]; }
  u32 colour(u8 dac_index) const;
  u8 attribute_to_dac(u8 value) const;
  unsigned lines() const;
  unsigned line_bytes() const;
  u32 start_bytes() const;
  void draw_text(ui::Picture& p) const;
  void draw_vga(ui::Picture& p) const;
  void draw_vbe(ui::Picture& p) const;
  std::shared_ptr<memory::RamBlock> vram_;
  std::vector<u8> seen_;  // registers and memory that the last picture was made of
  u64 generation_ = 0;
};

}  // namespace vmm::hw
