// How each kind of back end is made from its options.
#pragma once

#include "src/chardev/chardev.h"
#include "src/value/field.h"

namespace vmm {

// Options that all kinds have are taken out of the Value before.
struct ChardevKind {
  std::string_view name, doc;
  std::span<const Field> options;
  Result<Ref<Chardev>> (*make)(EventLoop& loop, const std::string& id, const Value& options);
  const ChardevKind* next = nullptr;
};
struct RegisteredChardev {
  explicit RegisteredChardev(ChardevKind kind);
  ChardevKind kind;
};
const ChardevKind* find_chardev_kind(std::string_view name);

template <class Options>
Result<Options> read_options(const Value& value) {
  Options options;
  TRY(assign_fields(&options, fields<Options>, value));
  return options;
}

EventLoop* chardev_loop();  // the one that back ends were made on; null before the first

// A mux over `base`, which is in the tree already.
Result<Ref<Chardev>> make_mux(Ref<Chardev> base);

}  // namespace vmm
