// The QMP wire: one client of JSON on a chardev.
#pragma once

#include <deque>
#include <map>

#include "monitor/monitor.h"
#include "monitor/output.h"
#include "src/event/clock.h"

namespace vmm::monitor {

class QmpMonitor final : public Monitor, public CharFrontEnd, private control::EventListener, private control::Context {
 public:
  QmpMonitor(Ref<Chardev> chardev, Options options);
  ~QmpMonitor() override;
  Result<> attach();

  usize can_receive() override;
  void receive(std::span<const u8> bytes) override;
  void char_event(ChardevEvent event) override;
  void can_send() override;
  bool takes_focus() const override { return false; }

 private:
  Result<int> take_fd() override;
  struct Request {
    Result<Value> message;
    bool oob = false;
  };
  void on_event(const control::EventInfo& event, const Value& data, i64 host_time_ns) override;
  void open();
  void close();
  void take(Result<Value> message);
  void dispatch();
  void execute(const Value& request, bool oob);
  Result<> allowed_by_policy(const control::Command& command) const;
  Result<> negotiate(const Value* arguments);
  void reply(const Value* id, Result<Value> result);
  void send(const Value& message);
  void send_event(const control::EventInfo& event, const Value& data, i64 host_time_ns);

  Ref<Chardev> chardev_;
  Output output_;
  const Options options_;
  bool open_ = false, negotiated_ = false, oob_ = false, busy_ = false;
  u64 session_ = 0;  // counts connections, so that a late answer does not reach the next client
  JsonStream stream_;
  std::deque<Value> waiting_;
  std::shared_ptr<QmpMonitor*> self_;  // null inside once we are gone

  // Events that come at most once a second; the last value of that second follows at its end.
  struct Limited {
    std::unique_ptr<Timer> timer;
    const control::EventInfo* event = nullptr;
    Value data;
    i64 host_time_ns = 0;
    bool pending = false;
  };
  std::map<std::string, Limited> limited_;
};

}  // namespace vmm::monitor
