#include "src/ui/pointer.h"

#include <algorithm>

namespace vmm::ui {

namespace {
std::vector<Pointer*>& pointers() {
  static auto& it = *new std::vector<Pointer*>;
  return it;
}
unsigned free_number() {
  unsigned n = 0;
  for (const Pointer* p : pointers()) n = std::max(n, p->number() + 1);
  return n;
}
}  // namespace

// One that is plugged in later takes over: the tablet that a user adds to a board with a mouse.
Pointer::Pointer(bool absolute) : absolute_(absolute), number_(free_number()) { pointers().insert(pointers().begin(), this); }
Pointer::~Pointer() { std::erase(pointers(), this); }

const std::vector<Pointer*>& all_pointers() { return pointers(); }
void use_pointer(Pointer& pointer) {
  auto& list = pointers();
  const auto at = std::ranges::find(list, &pointer);
  if (at != list.end()) std::rotate(list.begin(), at, at + 1);
}

namespace {
template <class Fits>
Pointer* first(Fits fits) {
  Pointer* found = nullptr;
  for (Pointer* p : pointers())
    if (fits(*p) && (!found || (p->ready() && !found->ready()))) found = p;
  return found;
}
}  // namespace

Pointer* pointer_for(bool absolute) {
  return first([&](const Pointer& p) { return p.absolute() == absolute; });
}
Pointer* current_pointer() {
  return first([](const Pointer&) { return true; });
}

}  // namespace vmm::ui
