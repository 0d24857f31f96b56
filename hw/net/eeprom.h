// A 93C46: 64 words of 16 bits behind select, clock and data wires. Source: Microchip 93C46 data sheet (read; writes are refused).
// The 8254x and the RTL8139 have one.
#pragma once

#include <array>

#include "src/value/field.h"

namespace vmm::hw {

struct Eeprom93c46 {
  std::array<u16, 64> words{};
  u32 bits = 0, count = 0, out = 0;  // the command that comes in; how much of it; the word that goes out
  bool reading = false, clock = false;

  void set(bool select, bool clock_now, bool data) {
    const bool rises = clock_now && !clock;
    clock = clock_now;
    if (!select) return bits = count = 0, void(reading = false);
    if (!rises) return;
    if (reading) {
      out <<= 1;
      if (++count > 16) count = 1, bits++, out = u32{words[bits & 63]} << 1;
      return;
    }
    if (!count && !data) return;  // before the start bit
    bits = bits << 1 | data;
    if (++count < 9) return;  // start bit, two bits of operation, six of address
    const u32 operation = bits >> 6 & 3;
    bits &= 63, count = 0;
    reading = operation == 2;
    if (reading) out = words[bits];  // its top bit comes with the next clock
  }
  bool data_out() const { return !reading || out & 0x10000; }
  // Nobody speaks with it; the words stay.
  void idle() { bits = count = out = 0, reading = clock = false; }
};

}  // namespace vmm::hw

namespace vmm {
template <>
inline constexpr std::array fields<hw::Eeprom93c46> = {
    field<&hw::Eeprom93c46::words>("words", "contents"),
    field<&hw::Eeprom93c46::bits>("bits", "the command that comes in; the address while a word goes out"),
    field<&hw::Eeprom93c46::count>("count", "bits of it"),
    field<&hw::Eeprom93c46::out>("out", "the word that goes out"),
    field<&hw::Eeprom93c46::reading>("reading", "a word goes out"),
    field<&hw::Eeprom93c46::clock>("clock", "level of the clock wire"),
};
}  // namespace vmm
