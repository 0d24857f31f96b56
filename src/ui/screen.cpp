#include "src/ui/screen.h"

#include <algorithm>

namespace vmm::ui {

namespace {
std::vector<Screen*>& screens() {
  static auto& it = *new std::vector<Screen*>;
  return it;
}
}  // namespace

Screen::Screen() { screens().push_back(this); }
Screen::~Screen() { std::erase(screens(), this); }
const std::vector<Screen*>& all_screens() { return screens(); }
Screen* find_screen(std::string_view device_id) {
  for (Screen* s : screens())
    if (device_id.empty() || s->device_id() == device_id) return s;
  return nullptr;
}

}  // namespace vmm::ui
