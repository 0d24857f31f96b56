// The answer of query-qmp-schema, made from the declarations of commands and events. Source: contract.md §2.3.
#pragma once

#include <string_view>
#include <vector>

#include "src/value/field.h"

namespace vmm::monitor {

std::vector<Value> make_schema();

// Arguments that depend on a word among them: "driver" says what else blockdev-add takes. The branches come from registries that the
// monitor does not know; who does registers a Union for the command, or for one member of its arguments.
struct Branch {
  std::string_view name;
  std::vector<const Field*> fields;
  std::vector<std::string_view> any;  // further optional members, of any type
  bool optional = false;              // all of `fields` may be absent
};
struct Union {
  std::string_view command, member;  // member: "backend" of chardev-add; empty: the arguments themselves
  std::string_view tag;              // the word's name
  bool wrapped = false;              // a branch's members stand in an object "data"
  std::span<const Field> (*common)() = nullptr;
  std::vector<Branch> (*branches)() = nullptr;
};
struct RegisteredUnion {
  explicit RegisteredUnion(const Union& shape);
  const Union& shape;
  const RegisteredUnion* next;
};

}  // namespace vmm::monitor
