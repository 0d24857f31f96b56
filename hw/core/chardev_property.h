// `chardev=ID`: a link to a character back end, set by its id.
#pragma once

#include "src/chardev/chardev.h"

namespace vmm {

template <>
struct Codec<Ref<Chardev>> {
  static constexpr TypeDescription description{.name = "str", .kind = TypeDescription::Kind::string};
  static Value to_value(const Ref<Chardev>& v) { return Value{v ? v->label() : std::string{}}; }
  static Result<> from_value(Ref<Chardev>& to, const Value& v, std::string_view what, const FieldLimits&) {
    const std::string id = TRY(v.as_string(what));
    if (id.empty()) return to = nullptr, Result<>{};
    Chardev* found = find_chardev(id);
    if (!found) return fail("can't find value '{}'", id);
    if (found->front() && !found->is_mux()) return fail("can't take value '{}', it's in use", id);
    to = Ref<Chardev>{found};
    return {};
  }
};

}  // namespace vmm
