// MSI and MSI-X. Source: PCI 3.0 §6.8.1 (MSI), §6.8.2 (MSI-X).
#include "hw/pci/messages.h"

#include <bit>

#include "src/base/bits.h"

namespace vmm::hw {

// --- MSI: always 64-bit addresses; layout: control +2, address +4, data +12, mask +16, pending +20.

Result<> PciDevice::add_msi(unsigned vectors, bool maskable) {
  if (vectors == 0 || vectors > 32 || !std::has_single_bit(vectors)) return fail("MSI takes 1, 2, 4, 8, 16 or 32 vectors, not {}", vectors);
  msi_cap_ = add_capability(0x05, maskable ? 0x18 : 0x0e);
  const unsigned log = static_cast<unsigned>(std::countr_zero(vectors));
  set_config(msi_cap_ + 2, 0x80 | log << 1 | (maskable ? 0x100 : 0), 2);
  set_writable(msi_cap_ + 2, 0x71, 2);
  set_writable(msi_cap_ + 4, 0xffff'fffc, 4);
  set_writable(msi_cap_ + 8, 0xffff'ffff, 4);
  set_writable(msi_cap_ + 12, 0xffff, 2);
  if (maskable) set_writable(msi_cap_ + 16, static_cast<u32>(mask_of_size(4) >> (32 - vectors)), 4);
  messages_->has_mask = maskable;
  return {};
}

bool PciDevice::msi_enabled() const {
  Lock lock{messages_->mutex};
  return messages_->msi_on;
}

void PciDevice::msi_notify(unsigned vector) {
  PciMessages& m = *messages_;
  Lock lock{m.mutex};
  if (!m.msi_on || vector >= m.msi_vectors) return;
  if (m.has_mask && m.msi_mask >> vector & 1) {
    m.msi_pending |= 1u << vector;
    return;
  }
  MsiMessage message = m.msi;
  message.data = (message.data & ~(m.msi_vectors - 1)) | vector;
  if (m.master) m.host->deliver_msi(message);
}

// Configuration space has changed: take over what it says, and send what is no longer held back.
void PciDevice::messages_written() {
  PciMessages& m = *messages_;
  Lock lock{m.mutex};
  m.master = bus_master();
  if (msi_cap_) {
    u8* c = &config_[msi_cap_];
    const u16 control = load_le<u16>(c + 2);
    const unsigned most = control >> 1 & 7, asked = control >> 4 & 7;
    m.msi_on = control & 1;
    m.msi_vectors = 1u << std::min(most, asked);
    m.msi = {.address = load_le<u32>(c + 4) | u64{load_le<u32>(c + 8)} << 32, .data = load_le<u16>(c + 12)};
    if (m.has_mask) {
      m.msi_mask = load_le<u32>(c + 16);
      for (unsigned v = 0; v < m.msi_vectors && m.msi_on; v++)
        if (m.msi_pending >> v & 1 && !(m.msi_mask >> v & 1)) {
          m.msi_pending &= ~(1u << v);
          if (m.master) m.host->deliver_msi({m.msi.address, (m.msi.data & ~(m.msi_vectors - 1)) | v});
        }
      store_le<u32>(c + 20, m.msi_pending);
    }
  }
  if (msix_cap_) {
    const u16 control = load_le<u16>(&config_[msix_cap_ + 2]);
    m.msix_on = control & 0x8000;
    m.msix_masked = control & 0x4000;
    m.flush_msix();
  }
}

// --- MSI-X

Result<> PciDevice::add_msix(unsigned vectors, unsigned bar, u32 table_offset, u32 pba_offset, memory::MemoryRegion& bar_region) {
  if (vectors == 0 || vectors > 2048) return fail("MSI-X takes 1 to 2048 vectors, not {}", vectors);
  msix_cap_ = add_capability(0x11, 12);
  set_config(msix_cap_ + 2, vectors - 1, 2);
  set_writable(msix_cap_ + 2, 0xc000, 2);
  set_config(msix_cap_ + 4, table_offset | bar, 4);
  set_config(msix_cap_ + 8, pba_offset | bar, 4);
  PciMessages& m = *messages_;
  {
    Lock lock{m.mutex};
    m.table.assign(vectors, {});
    m.pending.assign((vectors + 63) / 64, 0);
  }
  m.entries = vectors;
  const memory::IoSizes sizes{.min = 4, .max = 8, .valid_min = 4, .valid_max = 8, .unaligned = false, .machine_lock = true};
  m.table_region.init_io(this, "msix-table", u64{vectors} * 16,
                         memory::MemoryRegion::member_ops<&PciMessages::table_read, &PciMessages::table_write, PciMessages>(), &m, sizes);
  m.pba_region.init_io(this, "msix-pba", u64{(vectors + 63) / 64} * 8,
                       memory::MemoryRegion::member_ops<&PciMessages::pba_read, &PciMessages::pba_write, PciMessages>(), &m, sizes);
  bar_region.add(m.table_region, table_offset, 1);
  bar_region.add(m.pba_region, pba_offset, 1);
  return {};
}

bool PciDevice::msix_enabled() const {
  Lock lock{messages_->mutex};
  return messages_->msix_on;
}

void PciDevice::msix_notify(unsigned vector) {
  PciMessages& m = *messages_;
  Lock lock{m.mutex};
  if (!m.msix_on || vector >= m.entries) return;
  m.send_msix(vector);
}

void PciMessages::send_msix(unsigned vector) {
  const Entry& e = table[vector];
  if (msix_masked || (e.control & 1)) {
    pending[vector / 64] |= u64{1} << vector % 64;
    return;
  }
  pending[vector / 64] &= ~(u64{1} << vector % 64);
  if (master) host->deliver_msi({e.address, e.data});
}

void PciMessages::flush_msix() {
  if (!msix_on || msix_masked) return;
  for (unsigned v = 0; v < entries; v++)
    if (pending[v / 64] >> v % 64 & 1 && !(table[v].control & 1)) send_msix(v);
}

void PciMessages::reset() {
  Lock lock{mutex};
  msi_on = msix_on = msix_masked = false;
  msi_pending = 0;
  std::ranges::fill(table, Entry{});
  std::ranges::fill(pending, 0);
}

std::vector<u64> PciDevice::saved_messages() const {
  PciMessages& m = *messages_;
  Lock lock{m.mutex};
  std::vector<u64> words{m.msi_pending};
  for (const PciMessages::Entry& e : m.table) words.push_back(e.address), words.push_back(e.data | u64{e.control} << 32);
  words.insert(words.end(), m.pending.begin(), m.pending.end());
  return words;
}

Result<> PciDevice::load_messages(const std::vector<u64>& words) {
  PciMessages& m = *messages_;
  Lock lock{m.mutex};
  if (words.size() != 1 + m.table.size() * 2 + m.pending.size()) return fail("MSI-X state has {} words, which does not fit", words.size());
  m.msi_pending = static_cast<u32>(words[0]);
  for (usize i = 0; i < m.table.size(); i++) {
    const u64 low = words[1 + i * 2], high = words[2 + i * 2];
    m.table[i] = {.address = low & ~u64{3}, .data = static_cast<u32>(high), .control = static_cast<u32>(high >> 32) & 1};
  }
  std::copy_n(words.begin() + 1 + static_cast<std::ptrdiff_t>(m.table.size() * 2), m.pending.size(), m.pending.begin());
  return {};
}

u64 PciMessages::table_read(u64 offset, unsigned size) {
  Lock lock{mutex};
  if (offset / 16 >= entries) return 0;
  const Entry& e = table[offset / 16];
  u8 bytes[16];
  store_le<u64>(bytes, e.address), store_le<u32>(bytes + 8, e.data), store_le<u32>(bytes + 12, e.control);
  return size == 8 ? load_le<u64>(bytes + (offset & 8)) : load_le<u32>(bytes + (offset & 12));
}

void PciMessages::table_write(u64 offset, unsigned size, u64 value) {
  Lock lock{mutex};
  if (offset / 16 >= entries) return;
  Entry& e = table[offset / 16];
  u8 bytes[16];
  store_le<u64>(bytes, e.address), store_le<u32>(bytes + 8, e.data), store_le<u32>(bytes + 12, e.control);
  if (size == 8)
    store_le<u64>(bytes + (offset & 8), value);
  else
    store_le<u32>(bytes + (offset & 12), static_cast<u32>(value));
  e = {.address = load_le<u64>(bytes) & ~u64{3}, .data = load_le<u32>(bytes + 8), .control = load_le<u32>(bytes + 12) & 1};
  const unsigned v = static_cast<unsigned>(offset / 16);
  if (msix_on && pending[v / 64] >> v % 64 & 1) send_msix(v);
}

u64 PciMessages::pba_read(u64 offset, unsigned size) {
  Lock lock{mutex};
  if (offset / 8 >= pending.size()) return 0;
  const u64 word = pending[offset / 8];
  return size == 8 ? word : word >> (offset & 4) * 8 & 0xffff'ffff;
}

}  // namespace vmm::hw
