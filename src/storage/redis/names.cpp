// SPDX-License-Identifier: Apache-2.0
// Copyright 2026 the cake authors
#include "names.hpp"

#include <netdb.h>
#include <signal.h>

#include <cstring>
#include <new>
#include <thread>

namespace cake::inline CAKE_ABI::detail {

RedisNames::RedisNames(const RedisEndpoint& node, std::weak_ptr<RemoteDriver> driver) {
  // An address is no question.
  ask(node, AI_NUMERICHOST, *answer_);
  if (answer_->code == 0) return;
  answer_->known = false;
  // It takes no signal of the program.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread([node, answer = answer_, driver = std::move(driver)] {
      ask(node, AI_ADDRCONFIG, *answer);
      if (const auto woken = driver.lock()) woken->wake();
    }).detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void RedisNames::ask(const RedisEndpoint& node, int flags, Answer& answer) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* list = nullptr;
  const int code =
      ::getaddrinfo(node.host.c_str(), std::to_string(node.port).c_str(), &hints, &list);
  const std::lock_guard lock(answer.mutex);
  answer.code = code;
  try {
    for (const addrinfo* each = list; each != nullptr; each = each->ai_next) {
      Address address;
      if (each->ai_addrlen > sizeof address.data) continue;
      std::memcpy(&address.data, each->ai_addr, each->ai_addrlen);
      address.size = each->ai_addrlen;
      answer.addresses.push_back(address);
    }
  } catch (const std::bad_alloc&) {
    answer.code = EAI_MEMORY;
  }
  if (list != nullptr) ::freeaddrinfo(list);
  answer.known = true;
}

bool RedisNames::known() const {
  const std::lock_guard lock(answer_->mutex);
  return answer_->known;
}

std::vector<RedisNames::Address> RedisNames::addresses() const {
  const std::lock_guard lock(answer_->mutex);
  return answer_->addresses;
}

std::string RedisNames::why() const {
  const std::lock_guard lock(answer_->mutex);
  return ::gai_strerror(answer_->code);
}

}  // namespace cake::inline CAKE_ABI::detail
