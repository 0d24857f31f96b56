// The standard VGA as a PCI function, 1234:1111. BAR 0: video memory; BAR 2: the same registers by MMIO; legacy ports and window.
// Source: docs/specs/standard-vga of QEMU (the published interface). Not modelled: cirrus and other makers' extensions.
#include <bit>

#include "hw/display/vga_core.h"
#include "hw/pci/pci.h"
#include "src/base/bits.h"

namespace vmm::hw {

class Vga final : public PciDevice, public ui::Screen {
 public:
  static const TypeInfo type;
  Vga() : PciDevice({.vendor = 0x1234, .device = 0x1111, .revision = 2, .class_code = 0x030000}) { romfile_ = "vgabios-stdvga.bin"; }
  u64 generation() override { return realized() ? core_.generation() : 0; }
  ui::Picture picture() override { return realized() ? core_.picture() : ui::Picture{}; }
  std::string text() override { return realized() ? core_.text() : std::string{}; }
  std::string device_id() const override { return id(); }
  std::string describe() const override { return core_.text(); }
  void reset() override {
    PciDevice::reset();
    core_.reset();
  }
  Result<> after_load() override {
    core_.loaded();
    return {};
  }

 private:
  static const Field properties[9], state[17];
  template <auto Member>
  static constexpr Field core_field(std::string_view name);
  Result<> realize_pci() override;
  Task<> unrealize_pci() override;
  template <u16 Base>
  u64 port_read(u64 offset, unsigned) {
    return core_.port_read(static_cast<u16>(Base + offset));
  }
  template <u16 Base>
  void port_write(u64 offset, unsigned, u64 value) {
    core_.port_write(static_cast<u16>(Base + offset), static_cast<u8>(value));
  }
  u64 window_read(u64 offset, unsigned) { return core_.window_read(static_cast<u32>(offset)); }
  void window_write(u64 offset, unsigned, u64 value) { core_.window_write(static_cast<u32>(offset), static_cast<u8>(value)); }
  u64 vbe_read(u64 offset, unsigned);
  void vbe_write(u64 offset, unsigned, u64 value);
  u64 dispi_read(u64 offset, unsigned) { return core_.vbe_read(static_cast<u16>(offset / 2)); }
  void dispi_write(u64 offset, unsigned, u64 value) { core_.vbe_write(static_cast<u16>(offset / 2), static_cast<u16>(value)); }
  u64 extended_read(u64 offset, unsigned) { return offset == 0 ? 8 : little_endian; }
  void extended_write(u64, unsigned, u64) {}
  u64 edid_read(u64 offset, unsigned) { return offset < edid_.size() ? edid_[offset] : 0; }
  void edid_write(u64, unsigned, u64) {}
  void make_edid();
  static constexpr u32 little_endian = 0x1e1e1e1e;

  VgaCore core_;
  u32 memory_mib_ = 16, xres_ = 1280, yres_ = 800, xmax_ = 0, ymax_ = 0, refresh_ = 0;
  bool mmio_on_ = true, extended_ = true, edid_on_ = true;
  std::array<u8, 128> edid_{};
  memory::MemoryRegion vram_, window_, vbe_ports_, mmio_, mmio_edid_, mmio_ports_, mmio_dispi_, mmio_extended_;
  memory::MemoryRegion port_3b4_, port_3ba_, port_3c0_, port_3d4_, port_3da_;
};

constexpr Field Vga::properties[9] = {
    field<&Vga::memory_mib_>("vgamem_mb", "Video memory, in MiB.", {.min = 1, .max = 512}),
    field<&Vga::mmio_on_>("mmio", "Registers in BAR 2."),
    field<&Vga::extended_>("qemu-extended-regs", "Byte order register in BAR 2."),
    field<&Vga::edid_on_>("edid", "A monitor description in BAR 2."),
    field<&Vga::xres_>("xres", "Preferred width.", {.max = 16000}),
    field<&Vga::yres_>("yres", "Preferred height.", {.max = 12000}),
    field<&Vga::xmax_>("xmax", "Largest width.", {.max = 16000}),
    field<&Vga::ymax_>("ymax", "Largest height.", {.max = 12000}),
    field<&Vga::refresh_>("refresh_rate", "Preferred refresh rate."),
};

// A state field of the core, which is no object of its own.
template <auto Member>
constexpr Field Vga::core_field(std::string_view name) {
  using T = typename MemberOf<decltype(Member)>::Type;
  return Field{.name = name,
               .doc = "VGA state",
               .type = &Codec<T>::description,
               .get = [](const void* o) -> Value {
                 return Codec<T>::to_value(static_cast<const Vga*>(static_cast<const Object*>(o))->core_.*Member);
               },
               .set = [](void* o, const Value& v, const Field& f) -> Result<> {
                 return Codec<T>::from_value(static_cast<Vga*>(static_cast<Object*>(o))->core_.*Member, v, f.name, FieldLimits{});
               }};
}
constexpr Field Vga::state[17] = {
    core_field<&VgaCore::misc_>("misc"),
    core_field<&VgaCore::feature_>("feature"),
    core_field<&VgaCore::sequencer_index_>("sequencer-index"),
    core_field<&VgaCore::graphics_index_>("graphics-index"),
    core_field<&VgaCore::crtc_index_>("crtc-index"),
    core_field<&VgaCore::attribute_index_>("attribute-index"),
    core_field<&VgaCore::attribute_data_next_>("attribute-data-next"),
    core_field<&VgaCore::sequencer_>("sequencer"),
    core_field<&VgaCore::graphics_>("graphics"),
    core_field<&VgaCore::attribute_>("attribute"),
    core_field<&VgaCore::crtc_>("crtc"),
    core_field<&VgaCore::dac_write_>("dac-write"),
    core_field<&VgaCore::dac_mask_>("dac-mask"),
    core_field<&VgaCore::palette_>("palette"),
    core_field<&VgaCore::latch_>("latch"),
    core_field<&VgaCore::vbe_>("vbe"),
    core_field<&VgaCore::vbe_index>("vbe-index"),
};

constinit const TypeInfo Vga::type{.name = "VGA",
                                   .doc = "Standard VGA",
                                   .parent = &PciDevice::type,
                                   .properties = properties,
                                   .state = state,
                                   .make = make<Vga>,
                                   .category = "Display devices"};
static Registered registered{Vga::type};

Result<> Vga::realize_pci() {
  const u64 bytes = std::bit_ceil(u64{memory_mib_}) * MiB;
  TRY(vram_.init_ram(this, "vga.vram", bytes));
  core_.set_memory(vram_.ram());
  core_.reset();
  add_bar(0, PciBarKind::memory32_prefetch, vram_);

  const memory::IoSizes one{.min = 1, .max = 1}, two{.min = 2, .max = 2};
  window_.init_io<&Vga::window_read, &Vga::window_write>(*this, "vga-lowmem", 0x20000, one);
  place(pci().memory_window(), 0xa0000, window_, 1);
  port_3b4_.init_io<&Vga::port_read<0x3b4>, &Vga::port_write<0x3b4>>(*this, "vga", 2, one);
  port_3ba_.init_io<&Vga::port_read<0x3ba>, &Vga::port_write<0x3ba>>(*this, "vga", 1, one);
  port_3c0_.init_io<&Vga::port_read<0x3c0>, &Vga::port_write<0x3c0>>(*this, "vga", 16, one);
  port_3d4_.init_io<&Vga::port_read<0x3d4>, &Vga::port_write<0x3d4>>(*this, "vga", 2, one);
  port_3da_.init_io<&Vga::port_read<0x3da>, &Vga::port_write<0x3da>>(*this, "vga", 1, one);
  vbe_ports_.init_io<&Vga::vbe_read, &Vga::vbe_write>(*this, "vbe", 4, {.min = 2, .max = 2, .unaligned = true});
  memory::MemoryRegion& io = pci().io_window();
  place(io, 0x3b4, port_3b4_), place(io, 0x3ba, port_3ba_), place(io, 0x3c0, port_3c0_), place(io, 0x3d4, port_3d4_);
  place(io, 0x3da, port_3da_), place(io, 0x1ce, vbe_ports_);

  if (mmio_on_) {
    mmio_.init_container(this, "vga.mmio", 4096);
    mmio_ports_.init_io<&Vga::port_read<0x3c0>, &Vga::port_write<0x3c0>>(*this, "vga ioports remapped", 0x20, one);
    mmio_dispi_.init_io<&Vga::dispi_read, &Vga::dispi_write>(*this, "bochs dispi interface", 0x16, two);
    mmio_.add(mmio_ports_, 0x400);
    mmio_.add(mmio_dispi_, 0x500);
    if (extended_) {
      mmio_extended_.init_io<&Vga::extended_read, &Vga::extended_write>(*this, "qemu extended regs", 8, {.min = 4, .max = 4});
      mmio_.add(mmio_extended_, 0x600);
    }
    if (edid_on_) {
      make_edid();
      mmio_edid_.init_io<&Vga::edid_read, &Vga::edid_write>(*this, "edid", 0x400, one);
      mmio_.add(mmio_edid_, 0);
    }
    add_bar(2, PciBarKind::memory32, mmio_);
  }
  return {};
}

Task<> Vga::unrealize_pci() { co_return Result<>{}; }

// 0x1ce: index; 0x1cf and, for aligned access, 0x1d0: data. 16 bits wide.
u64 Vga::vbe_read(u64 offset, unsigned) { return offset == 0 ? core_.vbe_index : core_.vbe_read(core_.vbe_index); }
void Vga::vbe_write(u64 offset, unsigned, u64 value) {
  if (offset == 0)
    core_.vbe_index = static_cast<u16>(value);
  else
    core_.vbe_write(core_.vbe_index, static_cast<u16>(value));
}

// VESA E-EDID 1.4 with one detailed timing (reduced blanking) of the preferred mode.
void Vga::make_edid() {
  auto& e = edid_;
  e = {0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00, 0x5a, 0x2d, 0x34, 0x12, 0, 0, 0, 0, 42, 24, 1, 4};
  const unsigned w = std::clamp(xres_, 640u, 4088u), h = std::clamp(yres_, 480u, 4088u);
  e[20] = 0xa5;  // digital, 8 bits a colour
  e[21] = static_cast<u8>(std::min(w * 254 / 1000, 255u)), e[22] = static_cast<u8>(std::min(h * 254 / 1000, 255u));  // 100 dpi, in cm/10
  e[23] = 120, e[24] = 0x06;
  const u8 colours[10] = {0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54};
  std::ranges::copy(colours, e.begin() + 25);
  e[35] = 0x21, e[36] = 0x08;  // 640x480, 800x600, 1024x768 at 60 Hz
  for (unsigned i = 38; i < 54; i++) e[i] = 1;
  const unsigned h_blank = 160, v_blank = 23 + h / 100, clock_10khz = (w + h_blank) * (h + v_blank) * 60 / 10000;
  u8* d = &e[54];
  store_le<u16>(d, static_cast<u16>(std::min(clock_10khz, 0xffffu)));
  d[2] = static_cast<u8>(w), d[3] = static_cast<u8>(h_blank), d[4] = static_cast<u8>(w >> 8 << 4 | h_blank >> 8);
  d[5] = static_cast<u8>(h), d[6] = static_cast<u8>(v_blank), d[7] = static_cast<u8>(h >> 8 << 4 | v_blank >> 8);
  d[8] = 48, d[9] = 32, d[10] = 3 << 4 | 6, d[17] = 0x18;
  u8* range = &e[72];
  range[3] = 0xfd, range[5] = 50, range[6] = 125, range[7] = 30, range[8] = 160, range[9] = 255, range[10] = 1;
  std::fill(range + 11, range + 18, 0x20);
  range[11] = 0x0a;
  u8* name = &e[90];
  name[3] = 0xfc;
  constexpr std::string_view text = "vmm Monitor\n ";
  std::ranges::copy(text, name + 5);
  e[108 + 3] = 0x10;
  u8 sum = 0;
  for (unsigned i = 0; i < 127; i++) sum = static_cast<u8>(sum + e[i]);
  e[127] = static_cast<u8>(-sum);
}

}  // namespace vmm::hw
