// Value as bytes: CBOR (RFC 8949), definite lengths only, map keys are text. What it writes is the shortest form; what it reads may be
// any such item within the limits.
#pragma once

#include <span>

#include "src/value/value.h"

namespace vmm {

void append_cbor(std::vector<u8>& out, const Value& value);
std::vector<u8> to_cbor(const Value& value);

struct CborLimits {
  usize depth = 64;
  usize items = 4 << 20;  // of all lists and maps together
};
// Exactly one item. Errors name the byte at which it ceases to make sense; memory stays within a small multiple of the input's size.
Result<Value> parse_cbor(std::span<const u8> bytes, const CborLimits& limits = {});

}  // namespace vmm
