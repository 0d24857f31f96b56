#include "hw/acpi/aml.h"

#include "src/base/assert.h"
#include "src/base/bits.h"

namespace vmm::hw::aml {
namespace {

template <std::unsigned_integral T>
void put(Bytes& to, T value) {
  for (usize i = 0; i < sizeof(T); i++) to.push_back(static_cast<u8>(value >> (8 * i)));
}

// PkgLength counts itself.
Bytes with_length(const Bytes& body) {
  Bytes out;
  usize length = body.size() + 1;
  if (length < 0x40) {
    out.push_back(static_cast<u8>(length));
  } else {
    unsigned more = 1;
    while (more < 3 && body.size() + 1 + more >= (usize{1} << (4 + 8 * more))) more++;
    length = body.size() + 1 + more;
    ASSERT(length < (usize{1} << (4 + 8 * more)));
    out.push_back(static_cast<u8>(more << 6 | (length & 15)));
    for (unsigned i = 0; i < more; i++) out.push_back(static_cast<u8>(length >> (4 + 8 * i)));
  }
  append(out, body);
  return out;
}
Bytes op(std::initializer_list<u8> code, std::initializer_list<Bytes> parts) {
  Bytes out{code};
  append(out, cat(parts));
  return out;
}
Bytes sized(std::initializer_list<u8> code, std::initializer_list<Bytes> parts) {
  Bytes out{code};
  append(out, with_length(cat(parts)));
  return out;
}

template <std::unsigned_integral T>
Bytes window(u8 tag, u8 kind, u8 flags, T first, T last) {
  Bytes out{tag};
  put<u16>(out, static_cast<u16>(3 + 5 * sizeof(T)));
  out.push_back(kind);
  out.push_back(0x0c);  // fixed minimum and maximum, positive decode
  out.push_back(flags);
  for (T v : {T{0}, first, last, T{0}, static_cast<T>(last - first + 1)}) put<T>(out, v);
  return out;
}

}  // namespace

void append(Bytes& to, const Bytes& part) { to.insert(to.end(), part.begin(), part.end()); }
Bytes cat(std::initializer_list<Bytes> parts) {
  Bytes out;
  for (const Bytes& p : parts) append(out, p);
  return out;
}

Bytes path(std::string_view name) {
  Bytes out;
  while (!name.empty() && (name[0] == '\\' || name[0] == '^')) out.push_back(static_cast<u8>(name[0])), name.remove_prefix(1);
  std::vector<std::string_view> segments;
  while (!name.empty()) {
    const auto dot = name.find('.');
    segments.push_back(name.substr(0, dot));
    name = dot == name.npos ? std::string_view{} : name.substr(dot + 1);
  }
  if (segments.empty()) out.push_back(0);
  if (segments.size() == 2) out.push_back(0x2e);
  if (segments.size() > 2) out.push_back(0x2f), out.push_back(static_cast<u8>(segments.size()));
  for (const auto s : segments) {
    ASSERT(!s.empty() && s.size() <= 4);
    for (usize i = 0; i < 4; i++) out.push_back(static_cast<u8>(i < s.size() ? s[i] : '_'));
  }
  return out;
}

Bytes integer(u64 v) {
  Bytes out;
  if (v <= 1)
    out.push_back(static_cast<u8>(v));
  else if (v <= 0xff)
    out.push_back(0x0a), put<u8>(out, static_cast<u8>(v));
  else if (v <= 0xffff)
    out.push_back(0x0b), put<u16>(out, static_cast<u16>(v));
  else if (v <= 0xffff'ffff)
    out.push_back(0x0c), put<u32>(out, static_cast<u32>(v));
  else
    out.push_back(0x0e), put<u64>(out, v);
  return out;
}
Bytes string(std::string_view text) {
  Bytes out{0x0d};
  out.insert(out.end(), text.begin(), text.end());
  out.push_back(0);
  return out;
}
Bytes eisa_id(std::string_view id) {
  ASSERT(id.size() == 7);
  const auto hex = [](char c) { return static_cast<u32>(c <= '9' ? c - '0' : c - 'A' + 10); };
  const u32 v = static_cast<u32>(id[0] - 0x40) << 26 | static_cast<u32>(id[1] - 0x40) << 21 | static_cast<u32>(id[2] - 0x40) << 16 |
                hex(id[3]) << 12 | hex(id[4]) << 8 | hex(id[5]) << 4 | hex(id[6]);
  Bytes out{0x0c};
  put<u32>(out, std::byteswap(v));
  return out;
}
Bytes buffer(const Bytes& bytes) { return sized({0x11}, {integer(bytes.size()), bytes}); }
Bytes package(const std::vector<Bytes>& elements) {
  ASSERT(elements.size() < 256);
  Bytes body{static_cast<u8>(elements.size())};
  for (const Bytes& e : elements) append(body, e);
  return sized({0x12}, {body});
}
Bytes ones() { return {0xff}; }
Bytes arg(unsigned n) { return {static_cast<u8>(0x68 + n)}; }
Bytes local(unsigned n) { return {static_cast<u8>(0x60 + n)}; }

Bytes scope(std::string_view n, const Bytes& body) { return sized({0x10}, {path(n), body}); }
Bytes device(std::string_view n, const Bytes& body) { return sized({0x5b, 0x82}, {path(n), body}); }
Bytes name(std::string_view n, const Bytes& value) { return op({0x08}, {path(n), value}); }
Bytes method(std::string_view n, unsigned args, const Bytes& body, bool serialized) {
  return sized({0x14}, {path(n), Bytes{static_cast<u8>(args | (serialized ? 8 : 0))}, body});
}
Bytes region(std::string_view n, Space space, u64 offset, u64 length) {
  return op({0x5b, 0x80}, {path(n), Bytes{static_cast<u8>(space)}, integer(offset), integer(length)});
}
Bytes field(std::string_view region, std::initializer_list<FieldUnit> units, u8 access) {
  Bytes list;
  for (const FieldUnit& u : units) {
    if (u.name.empty())
      list.push_back(0);
    else
      append(list, path(u.name));
    // A bit count is coded like a PkgLength that does not count itself.
    if (u.bits < 0x40)
      list.push_back(static_cast<u8>(u.bits));
    else
      list.push_back(static_cast<u8>(1 << 6 | (u.bits & 15))), list.push_back(static_cast<u8>(u.bits >> 4));
  }
  return sized({0x5b, 0x81}, {path(region), Bytes{access}, list});
}
Bytes give(const Bytes& v) { return op({0xa4}, {v}); }
Bytes store(const Bytes& v, const Bytes& target) { return op({0x70}, {v, target}); }
Bytes and_(const Bytes& a, const Bytes& b, const Bytes& target) { return op({0x7b}, {a, b, target.empty() ? Bytes{0} : target}); }
Bytes or_(const Bytes& a, const Bytes& b, const Bytes& target) { return op({0x7d}, {a, b, target.empty() ? Bytes{0} : target}); }
Bytes if_(const Bytes& condition, const Bytes& body) { return sized({0xa0}, {condition, body}); }
Bytes else_(const Bytes& body) { return sized({0xa1}, {body}); }
Bytes while_(const Bytes& condition, const Bytes& body) { return sized({0xa2}, {condition, body}); }
Bytes equal(const Bytes& a, const Bytes& b) { return op({0x93}, {a, b}); }
Bytes not_(const Bytes& a) { return op({0x92}, {a}); }
Bytes create_dword_field(const Bytes& buffer, u64 offset, std::string_view n) { return op({0x8a}, {buffer, integer(offset), path(n)}); }
Bytes shift_left(const Bytes& a, const Bytes& count) { return op({0x79}, {a, count, Bytes{0}}); }
Bytes call(std::string_view method, std::initializer_list<Bytes> arguments) { return cat({path(method), cat(arguments)}); }
Bytes notify(std::string_view object, const Bytes& value) { return op({0x86}, {path(object), value}); }
Bytes mutex(std::string_view n) { return op({0x5b, 0x01}, {path(n), Bytes{0}}); }
Bytes acquire(std::string_view m) { return op({0x5b, 0x23}, {path(m), Bytes{0xff, 0xff}}); }
Bytes release(std::string_view m) { return op({0x5b, 0x27}, {path(m)}); }

Bytes resources(std::initializer_list<Bytes> descriptors) {
  Bytes list = cat(descriptors);
  list.push_back(0x79);
  list.push_back(0);
  return buffer(list);
}
Bytes io_ports(u16 min, u16 max, u8 alignment, u8 length) {
  Bytes out{0x47, 1};
  put<u16>(out, min);
  put<u16>(out, max);
  out.push_back(alignment);
  out.push_back(length);
  return out;
}
Bytes irq_no_flags(u16 mask) { return {0x22, static_cast<u8>(mask), static_cast<u8>(mask >> 8)}; }
Bytes irq(std::initializer_list<u32> numbers, bool consumer, bool level, bool active_low, bool shared) {
  Bytes out{0x89};
  put<u16>(out, static_cast<u16>(2 + 4 * numbers.size()));
  out.push_back(static_cast<u8>((consumer ? 1 : 0) | (level ? 0 : 2) | (active_low ? 4 : 0) | (shared ? 8 : 0)));
  out.push_back(static_cast<u8>(numbers.size()));
  for (u32 n : numbers) put<u32>(out, n);
  return out;
}
Bytes fixed_memory(u32 base, u32 length, bool writable) {
  Bytes out{0x86, 9, 0, static_cast<u8>(writable ? 1 : 0)};
  put<u32>(out, base);
  put<u32>(out, length);
  return out;
}
Bytes bus_range(u16 first, u16 last) { return window<u16>(0x88, 2, 0, first, last); }
Bytes io_window(u16 first, u16 last) { return window<u16>(0x88, 1, 3, first, last); }
Bytes memory_window(u32 first, u32 last, bool cacheable) { return window<u32>(0x87, 0, cacheable ? 3 : 1, first, last); }
Bytes memory_window64(u64 first, u64 last, bool cacheable) { return window<u64>(0x8a, 0, cacheable ? 3 : 1, first, last); }

}  // namespace vmm::hw::aml
