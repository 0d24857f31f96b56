// The fw_cfg device on its I/O ports. Source: QEMU's docs/specs/fw_cfg (the published interface): selector, data port, DMA, directory.
#include "hw/firmware/fw_cfg.h"

#include "src/base/bits.h"
#include "src/base/log.h"

namespace vmm::hw {

constexpr Field FwCfg::properties[2] = {
    field<&FwCfg::dma_enabled_>("dma_enabled", "Offer the DMA interface."),
    field<&FwCfg::file_slots_>("x-file-slots", "Number of file slots that the guest may expect.", {.min = 0x10, .max = 0x4000}),
};
constexpr Field FwCfg::state[3] = {
    field<&FwCfg::key_>("key", "selected item"),
    field<&FwCfg::offset_>("offset", "next byte of it"),
    field<&FwCfg::dma_address_>("dma-address", "half-written DMA address"),
};

constinit const TypeInfo FwCfg::type{.name = "fw_cfg_io",
                                     .doc = "Firmware configuration by I/O ports.",
                                     .parent = &Device::type,
                                     .properties = properties,
                                     .state = state,
                                     .make = make<FwCfg>,
                                     .user_creatable = false,
                                     .bus = "System"};
static Registered registered{FwCfg::type};

static constexpr usize name_bytes = 56;
static constexpr usize max_files = 4000;
enum : u32 { control_error = 1, control_read = 2, control_skip = 4, control_select = 8, control_write = 16 };
static constexpr u16 write_channel = 0x4000;

FwCfg::FwCfg() { add_item(fw_cfg_key::signature, {'Q', 'E', 'M', 'U'}); }

Result<> FwCfg::realize() {
  add_u32(fw_cfg_key::id, dma_enabled_ ? 3 : 1);
  ports_.init_io<&FwCfg::read, &FwCfg::write>(*this, "fwcfg", 2, {.min = 1, .max = 2, .unaligned = true});
  place(machine().port_root(), port, ports_);
  if (dma_enabled_) {
    dma_ports_.init_io<&FwCfg::dma_read, &FwCfg::dma_write>(*this, "fwcfg.dma", 8, {.min = 1, .max = 8});
    place(machine().port_root(), dma_port, dma_ports_);
  }
  return {};
}

void FwCfg::add_item(u16 key, Bytes bytes) { items_[key].bytes = std::move(bytes); }
void FwCfg::add_slice(u16 key, FileSlice slice) { items_[key].slice = std::move(slice); }
void FwCfg::add_text(u16 key, std::string_view text) {
  Bytes bytes{text.begin(), text.end()};
  bytes.push_back(0);
  add_item(key, std::move(bytes));
}
template <class T>
static FwCfg::Bytes little(T value) {
  FwCfg::Bytes bytes(sizeof value);
  store_le(bytes.data(), value);
  return bytes;
}
void FwCfg::add_u16(u16 key, u16 value) { add_item(key, little(value)); }
void FwCfg::add_u32(u16 key, u32 value) { add_item(key, little(value)); }
void FwCfg::add_u64(u16 key, u64 value) { add_item(key, little(value)); }

Result<> FwCfg::add_file(std::string name, Bytes bytes, Selected selected) {
  if (name.empty() || name.size() >= name_bytes) return fail("fw_cfg file name '{}' is not 1 to {} characters long", name, name_bytes - 1);
  if (files_.size() >= max_files) return fail("fw_cfg has no room for file '{}'", name);
  if (bytes.size() > 0xffff'ffff) return fail("fw_cfg file '{}' is larger than 4 GiB", name);
  auto [at, added] = files_.try_emplace(std::move(name));
  if (!added) return fail("duplicate fw_cfg file name: {}", at->first);
  at->second = {.bytes = std::move(bytes), .selected = std::move(selected)};
  directory_stale_ = true;
  return {};
}

Result<> FwCfg::add_writable_file(std::string name, usize size, Written written, Bytes initial) {
  initial.resize(size);
  TRY(add_file(name, std::move(initial)));
  Item& i = files_.find(name)->second;
  i.written = std::move(written), i.writable = true;
  return {};
}

Result<> FwCfg::replace_file(std::string_view name, Bytes bytes) {
  auto at = files_.find(name);
  if (at == files_.end()) return add_file(std::string{name}, std::move(bytes));
  at->second.bytes = std::move(bytes);
  directory_stale_ = true;
  return {};
}

const FwCfg::Bytes* FwCfg::file(std::string_view name) const {
  auto at = files_.find(name);
  return at == files_.end() ? nullptr : &at->second.bytes;
}

void FwCfg::reset() {
  dma_address_ = 0;
  select(fw_cfg_key::signature);
}

// Entries of 64 bytes, big endian, after a count: size, key, reserved, name.
void FwCfg::build_directory() {
  directory_stale_ = false;
  by_slot_.clear();
  Bytes& d = directory_.bytes;
  d.assign(4 + files_.size() * 64, 0);
  store_be<u32>(d.data(), static_cast<u32>(files_.size()));
  u8* entry = d.data() + 4;
  for (auto& [name, file] : files_) {
    store_be<u32>(entry, static_cast<u32>(file.bytes.size()));
    store_be<u16>(entry + 4, static_cast<u16>(fw_cfg_key::first_file + by_slot_.size()));
    std::memcpy(entry + 8, name.data(), name.size());
    by_slot_.push_back(&file);
    entry += 64;
  }
}

FwCfg::Item* FwCfg::item(u16 key) {
  key &= static_cast<u16>(~write_channel);
  if (directory_stale_) build_directory();
  if (key == fw_cfg_key::file_directory) return &directory_;
  if (key >= fw_cfg_key::first_file && key < fw_cfg_key::first_file + by_slot_.size()) return by_slot_[key - fw_cfg_key::first_file];
  auto at = items_.find(key);
  return at == items_.end() ? nullptr : &at->second;
}

void FwCfg::select(u16 key) {
  key_ = key, offset_ = 0;
  if (Item* i = item(key); i && i->selected) i->selected();
}

u64 FwCfg::read(u64 offset, unsigned size) {
  if (size != 1) return mask_of_size(size);
  Item* i = item(key_);
  if (!i || offset_ >= i->size()) return 0;
  if (!i->slice.file) return i->bytes[offset_++];
  u8 byte = 0;
  i->slice.file->read(i->slice.offset + offset_++, {&byte, 1});
  return byte;
}

void FwCfg::write(u64 offset, unsigned size, u64 value) {
  if (offset == 0 && size == 2) select(static_cast<u16>(value));
  // Writes to the data port have had no effect since QEMU 2.4.
}

u64 FwCfg::dma_read(u64 offset, unsigned size) {
  // "QEMU CFG", so that a guest sees that DMA is there; big endian like the address.
  static constexpr u8 signature[] = "QEMU CFG";
  u64 value = 0;
  for (unsigned i = 0; i < size && offset + i < 8; i++) value |= u64{signature[offset + i]} << i * 8;
  return value;
}

void FwCfg::dma_write(u64 offset, unsigned size, u64 value) {
  if (size == 4 && offset == 0) {
    dma_address_ = u64{std::byteswap(static_cast<u32>(value))} << 32;
  } else if (size == 4 && offset == 4) {
    transfer(std::exchange(dma_address_, 0) | std::byteswap(static_cast<u32>(value)));
  } else if (size == 8 && offset == 0) {
    dma_address_ = 0;
    transfer(std::byteswap(value));
  } else {
    guest_error("fw_cfg", "DMA register written with {} bytes at {}", size, offset);
  }
}

// Control block: control, length, address; all big endian. The guest polls `control` until only the error bit may be left.
void FwCfg::transfer(u64 at) {
  memory::AddressSpace& memory = machine().memory();
  u8 block[16];
  if (!memory.read(GuestPhys{at}, block)) {
    u8 error[4];
    store_be<u32>(error, control_error);
    memory.write(GuestPhys{at}, error);
    return;
  }
  const u32 control = load_be<u32>(block);
  u64 left = load_be<u32>(block + 4), address = load_be<u64>(block + 8);
  bool error = false;
  if (control & control_select) select(static_cast<u16>(control >> 16));
  Item* i = item(key_);
  const u64 size = i ? i->size() : 0;
  if (control & control_read) {
    Bytes read;
    while (left && offset_ < size && !error) {
      const u64 given = std::min({left, size - offset_, i->slice.file ? 1 * MiB : size});
      std::span<const u8> part;
      if (i->slice.file) {
        read.resize(given);
        i->slice.file->read(i->slice.offset + offset_, read);
        part = read;
      } else {
        part = std::span<const u8>{i->bytes}.subspan(offset_, given);
      }
      error = !memory.write(GuestPhys{address}, part);
      offset_ += static_cast<u32>(given), address += given, left -= given;
    }
    // Past the end of an item is zeros; a guest that asks for gigabytes of them gets what it has RAM for.
    static constexpr std::array<u8, 64 * KiB> zeros{};
    while (left && !error) {
      const u64 part = std::min<u64>(left, zeros.size());
      error = !memory.write(GuestPhys{address}, std::span{zeros}.first(part));
      address += part, left -= part;
    }
  } else if (control & control_write) {
    if (!i || !i->writable || offset_ > size || left > size - offset_) {
      error = true;
    } else {
      Bytes copy(left);
      error = !memory.read(GuestPhys{address}, copy);
      if (!error) {
        std::ranges::copy(copy, i->bytes.begin() + offset_);
        offset_ += static_cast<u32>(left);
        if (i->written) i->written(i->bytes);
      }
    }
  } else if (control & control_skip) {
    offset_ = static_cast<u32>(std::min<u64>(u64{offset_} + left, 0xffff'ffff));
  }
  u8 result[4];
  store_be<u32>(result, error ? control_error : 0);
  memory.write(GuestPhys{at}, result);
}

}  // namespace vmm::hw
