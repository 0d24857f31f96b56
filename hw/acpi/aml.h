// A writer of ACPI machine language: each function gives the bytes of one term; terms are concatenated into bodies. Source: ACPI 6.4 §20.
#pragma once

#include <initializer_list>
#include <span>
#include <string_view>
#include <vector>

#include "src/base/types.h"

namespace vmm::hw::aml {

using Bytes = std::vector<u8>;

Bytes cat(std::initializer_list<Bytes> parts);
void append(Bytes& to, const Bytes& part);

// Names: "\\_SB.PCI0", "^ISA.PRQA", "_CRS"; segments are padded to four characters.
Bytes path(std::string_view name);
Bytes integer(u64 value);  // the shortest form
Bytes string(std::string_view text);
Bytes eisa_id(std::string_view id);  // "PNP0A03"
Bytes buffer(const Bytes& bytes);
Bytes package(const std::vector<Bytes>& elements);
Bytes ones();
Bytes arg(unsigned n);
Bytes local(unsigned n);

Bytes scope(std::string_view name, const Bytes& body);
Bytes device(std::string_view name, const Bytes& body);
Bytes name(std::string_view name, const Bytes& value);
Bytes method(std::string_view name, unsigned args, const Bytes& body, bool serialized = false);
enum class Space : u8 { memory = 0, io = 1, pci_config = 2 };
Bytes region(std::string_view name, Space space, u64 offset, u64 length);
// A field list over a region: {"PRQA", 8 bits}; an empty name skips bits. Access by bytes, any lock, preserve.
struct FieldUnit {
  std::string_view name;
  u32 bits;
};
Bytes field(std::string_view region, std::initializer_list<FieldUnit> units, u8 access = 1);

Bytes give(const Bytes& value);  // Return
Bytes store(const Bytes& value, const Bytes& target);
Bytes and_(const Bytes& a, const Bytes& b, const Bytes& target = {});
Bytes or_(const Bytes& a, const Bytes& b, const Bytes& target = {});
Bytes if_(const Bytes& condition, const Bytes& body);
Bytes else_(const Bytes& body);
Bytes while_(const Bytes& condition, const Bytes& body);
Bytes equal(const Bytes& a, const Bytes& b);
Bytes not_(const Bytes& a);  // LNot
Bytes create_dword_field(const Bytes& buffer, u64 offset, std::string_view name);
Bytes shift_left(const Bytes& a, const Bytes& count);
Bytes call(std::string_view method, std::initializer_list<Bytes> arguments);
Bytes notify(std::string_view object, const Bytes& value);
Bytes mutex(std::string_view name);
Bytes acquire(std::string_view mutex);  // waits for ever
Bytes release(std::string_view mutex);

// Resource descriptors (§6.4); a template is a buffer of them with its end tag.
Bytes resources(std::initializer_list<Bytes> descriptors);
Bytes io_ports(u16 min, u16 max, u8 alignment, u8 length);
Bytes irq_no_flags(u16 mask);
Bytes irq(std::initializer_list<u32> numbers, bool consumer, bool level, bool active_low, bool shared);  // extended
Bytes fixed_memory(u32 base, u32 length, bool writable);
Bytes bus_range(u16 first, u16 last);
Bytes io_window(u16 first, u16 last);
Bytes memory_window(u32 first, u32 last, bool cacheable);
Bytes memory_window64(u64 first, u64 last, bool cacheable);

}  // namespace vmm::hw::aml
