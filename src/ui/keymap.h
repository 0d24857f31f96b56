// From X keysyms, which remote screens send, to keys, by the layout that the guest believes its keyboard to have (-k).
#pragma once

#include <optional>
#include <string_view>

#include "src/base/types.h"

namespace vmm::ui {

struct Stroke {
  u16 code = 0;                        // Linux input event code
  bool shift = false, alt_gr = false;  // modifiers that the character needs
  bool character = false;              // false: a key by itself, modifiers do not matter
};

class Layout;
// By QEMU's name ("de", "fr-ch"); the American one for an empty name, and for those that have no table here.
const Layout& find_layout(std::string_view name);
bool has_layout(std::string_view name);
std::optional<Stroke> find_stroke(const Layout& layout, u32 keysym);
// Unicode of a keysym that stands for a character; 0: none.
char32_t keysym_to_unicode(u32 keysym);

}  // namespace vmm::ui
