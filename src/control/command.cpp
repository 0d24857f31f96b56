#include "src/control/command.h"

#include <algorithm>
#include <chrono>

namespace vmm::control {

namespace {
constinit const Command* first_command = nullptr;
constinit const RegisteredEvent* first_event = nullptr;
std::vector<EventListener*>& listeners() {
  static auto& it = *new std::vector<EventListener*>;
  return it;
}
std::string_view sort_name(const Command* c) { return c->info.name.empty() ? c->info.human : c->info.name; }
}  // namespace

Registered::Registered(Command c) : command(std::move(c)) {
  command.next = first_command;
  first_command = &command;
}

std::vector<const Command*> all_commands() {
  std::vector<const Command*> out;
  for (const Command* c = first_command; c; c = c->next) out.push_back(c);
  std::ranges::sort(out, {}, sort_name);
  return out;
}

const Command* find_command(std::string_view qmp_name) {
  if (qmp_name.empty()) return nullptr;
  for (const Command* c = first_command; c; c = c->next)
    if (c->info.name == qmp_name) return c;
  return nullptr;
}

RegisteredEvent::RegisteredEvent(const EventInfo& i) : info(i), next(first_event) { first_event = this; }

std::vector<const EventInfo*> all_events() {
  std::vector<const EventInfo*> out;
  for (const RegisteredEvent* e = first_event; e; e = e->next) out.push_back(&e->info);
  std::ranges::sort(out, {}, &EventInfo::name);
  return out;
}

void emit(const EventInfo& event, Value data) {
  const i64 now = std::chrono::duration_cast<Nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  const auto copy = listeners();  // a listener may go away, or come, while we tell it
  for (EventListener* l : copy)
    if (std::ranges::find(listeners(), l) != listeners().end()) l->on_event(event, data, now);
}

EventListener::EventListener() { listeners().push_back(this); }
EventListener::~EventListener() { std::erase(listeners(), this); }

}  // namespace vmm::control
